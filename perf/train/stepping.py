"""A step of anyone's, advanced and read: what the loop, counting and attribution need of it."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from perf.errors import NonFiniteError, PerfError
from perf.seam import Step
from perf.train.devices import World


def _fail(step: int, what: str) -> NoReturn:
    raise NonFiniteError(f"Step={step}: {what}; the run cannot go on. Lower the learning rate, or use fp32")


class Stepping:
    """Counts steps and keeps what they return until it is read, so that a step need not wait for the device.

    What a step returns is averaged over the ranks. `fail` raises `NonFiniteError` for a step and what was found in it.
    """

    def __init__(
        self, step: Step, *, world: World, start_step: int = 0, fail: Callable[[int, str], NoReturn] = _fail
    ) -> None:
        self._step, self._world, self._fail = step, world, fail
        self.global_step = start_step  # optimizer steps completed
        self.losses: list[float] = []  # of every step that was read, nats
        self.scalars: dict[str, list[float]] = {}  # further scalars of every step that was read, by name
        self._unread: list[Any] = []

    def step(self) -> None:
        """Complete one optimizer step; no host sync."""
        self._unread.append(self._step())
        self.global_step += 1

    def read(self) -> None:
        """Add what the steps since the last call returned to `losses` and `scalars`; waits for the device.

        Raises:
            PerfError: a step did not return a loss, or not the same scalars as the others.
            NonFiniteError: a loss, or another scalar, is NaN or infinite.
            MainRankError: on the other ranks, the same.
        """
        unread, self._unread = self._unread, []
        first = self.global_step - len(unread) + 1
        rows = [_by_name(returned, step) for step, returned in enumerate(unread, first)]
        for name in rows[0] if rows else ():
            if any(row.keys() != rows[0].keys() for row in rows):
                raise PerfError(f"Step={first}: the steps from here on return different scalars; return the same names")
            values = [row[name] for row in rows]
            # One transfer for all steps: waiting for each of them would take as many round trips.
            read = self._world.mean(torch.stack([torch.as_tensor(value).detach() for value in values])).tolist()
            for step, value in enumerate(read, first):
                if not math.isfinite(value):
                    self._world.from_main(partial(self._fail, step, f"the {name} is {value}"))
            (self.losses if name == "loss" else self.scalars.setdefault(name, [])).extend(read)


def _by_name(returned: Any, step: int) -> dict[str, Tensor | float]:
    """Return the scalars that a step returned. Raises PerfError: there is no loss, or something is no scalar."""
    values = returned if isinstance(returned, dict) else {"loss": returned}
    if "loss" not in values:
        raise PerfError(f'Step={step}: returned scalars without "loss"; return the loss, or {{"loss": loss, ...}}')
    for name, value in values.items():
        is_scalar = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)
        if not isinstance(name, str) or not is_scalar:
            raise PerfError(
                f"Step={step}: returned {type(value).__name__} as {name!r:.40}, and a tensor of one "
                "number or a float is needed"
            )
    return {name: value.reshape(()) if isinstance(value, Tensor) else value for name, value in values.items()}
