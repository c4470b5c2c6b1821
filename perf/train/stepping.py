"""The steps of a run: how many are left, after which to log or save, and what each of them returned."""

import math
from typing import Any

import torch
from torch import Tensor

from perf.errors import MainRankError, NonFiniteError, PerfError, RunFinishedError
from perf.seam import Step
from perf.train.devices import World

WAYS_ON = "the run cannot go on. Use fp32, a lower learning rate, or another seed"


def steps_to_run(
    *,
    global_step: int,  # optimizer steps completed so far; 0 for a fresh run
    num_steps: int | None = None,  # how many more steps to make
    max_steps: int | None = None,  # the absolute step to stop at
    num_epochs: int | None = None,  # how many passes over the data to make; needs a known `data_len`
    steps_per_epoch: int | None = None,  # micro-batches that count as one epoch; None for all of the data
    data_len: int | None = None,  # micro-batches in the data, or None when it has no end
    grad_accum_steps: int = 1,  # micro-batches per optimizer step
) -> int:
    """Return how many optimizer steps a run starting at `global_step` still has to make; at least 1.

    It is the least of `num_steps`, `num_epochs` times the optimizer steps of an epoch, and `max_steps - global_step`.
    Where `data_len` is known, an epoch must have at least one optimizer step, whatever the limit is.

    Raises:
        ValueError: an argument is not a positive integer, or the arguments contradict each other.
        RunFinishedError: `global_step` has reached `max_steps`.
    """
    limits = {"num_steps": num_steps, "max_steps": max_steps, "num_epochs": num_epochs}
    data = {"steps_per_epoch": steps_per_epoch, "data_len": data_len, "grad_accum_steps": grad_accum_steps}
    given = {name: value for name, value in {**limits, **data}.items() if value is not None}
    for name, value in {"global_step": global_step, **given}.items():
        least = 0 if name == "global_step" else 1
        if type(value) is not int or value < least:  # bool is an int to Python, but max_steps=True is a mistake
            raise ValueError(f"{name}={value!r}: an integer of at least {least} is needed")
    if num_epochs is not None and num_steps is not None:
        raise ValueError(f"num_epochs={num_epochs} and num_steps={num_steps} exclude each other; give one of them")
    if not limits.keys() & given.keys():
        raise ValueError("no limit given: one of num_steps, max_steps or num_epochs is needed")
    left = [] if num_steps is None else [num_steps]
    if data_len is not None:
        epoch = data_len if steps_per_epoch is None else steps_per_epoch
        if epoch > data_len:
            raise ValueError(f"steps_per_epoch={epoch} exceeds the data: it has {data_len} micro-batches")
        if grad_accum_steps > epoch:
            raise ValueError(f"grad_accum_steps={grad_accum_steps} exceeds an epoch of {epoch} micro-batches")
        if num_epochs is not None:
            left.append(num_epochs * (epoch // grad_accum_steps))
    elif num_epochs is not None:
        raise ValueError(
            f"num_epochs={num_epochs} needs data of a known length, and this data has no end; "
            "give num_steps or max_steps"
        )
    if max_steps is not None:
        if global_step >= max_steps:
            raise RunFinishedError(global_step=global_step, max_steps=max_steps)
        left.append(max_steps - global_step)
    return min(left)


def should_act(*, global_step: int, last_step: int, every: int | None) -> bool:
    """Tell whether something done `every` so many steps, and at the last one, is due after `global_step`."""
    return global_step == last_step or (every is not None and global_step % every == 0)


class Stepping:
    """Counts steps and keeps what they return until it is read, so that a step need not wait for the device."""

    def __init__(self, step: Step, *, world: World, start_step: int = 0) -> None:
        self._step, self._world = step, world
        self.global_step = start_step  # optimizer steps completed
        self.losses: list[float] = []  # of every step that was read, nats
        self.scalars: dict[str, list[float]] = {}  # further scalars of every step that was read, by name
        self._unread: list[Any] = []

    def step(self) -> None:
        """Complete one optimizer step; no host sync."""
        self._unread.append(self._step())
        self.global_step += 1

    def read(self) -> None:
        """Add what the steps since the last call returned, as means over the ranks, to `losses` and `scalars`.

        Waits for the device.

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
                    is_main, what = self._world.is_main, f"Step={step}: the {name} is {value}; {WAYS_ON}"
                    raise NonFiniteError(what) if is_main else MainRankError
            (self.losses if name == "loss" else self.scalars.setdefault(name, [])).extend(read)


def _by_name(returned: Any, step: int) -> dict[str, Tensor | float]:
    """Return the scalars that a step returned. Raises PerfError: there is no loss, or something is no scalar."""
    values = returned if isinstance(returned, dict) else {"loss": returned}
    if "loss" not in values:
        raise PerfError(f'Step={step}: returned scalars without "loss"; return the loss, or {{"loss": loss, ...}}')
    for name, value in values.items():
        is_scalar = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)
        if not isinstance(name, str) or not is_scalar:
            found = f"Step={step}: returned {type(value).__name__} as {name!r:.40}"
            raise PerfError(f"{found}, and a tensor of one number or a float is needed")
    return {name: value.reshape(()) if isinstance(value, Tensor) else value for name, value in values.items()}
