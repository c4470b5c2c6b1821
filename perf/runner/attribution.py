"""Where the time of a training step goes: per phase, and in it per operation.

Every operation is timed alone, and on a GPU waited for, so a step takes longer than in training: these times say
where to look, and mean something beside another side's that were taken alike. The kernel has no hooks for this; while
it lasts, the kernel's parts are replaced by ones that say when they begin and end.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from perf.records.phases import PHASES, PYTHON, STEP_PHASES, PhaseTime
from perf.train import kernel
from perf.train import trainer as trainer_module
from perf.train.config import RunPlan
from perf.train.data import Source
from perf.train.devices import World, keep_freed_memory, synchronize
from perf.train.trainer import Trainer

_WARMUP_STEPS = 2


def attribute(
    plan: RunPlan, source: Source, *, num_steps: int, clock: Callable[[], float] = time.perf_counter
) -> list[PhaseTime]:
    """Time steps of a new trainer, after a warm-up, and then one reading of their losses and one checkpoint.

    All rows together, those of a step `num_steps` times, are the time that elapsed. The checkpoint is a temporary one,
    whatever the plan says of checkpoints.

    Args:
        plan: from `plan_run`, for one rank and without torch.compile, whose kernels no dispatch reaches.
        source: where samples come from.
        num_steps: how many to time.
        clock: monotonic, seconds.

    Raises:
        ValueError: `num_steps` is not positive, or the model is to be compiled.
        NonFiniteError: a loss or a weight was NaN or infinite.
        OSError: the checkpoint could not be written.
    """
    if num_steps < 1 or plan.config.compile_model:
        raise ValueError(
            f"num_steps={num_steps}, compile_model={plan.config.compile_model}: "
            "at least one step of a model that is not compiled is needed"
        )
    device = plan.config.device
    with TemporaryDirectory() as directory, _without_collections():
        keep_freed_memory()  # as every run does: it decides whether operations have page faults
        config = replace(plan.config, model_dir=Path(directory), keep_checkpoints=1)
        trainer = Trainer(replace(plan, config=config), source, World())
        warmup = _SelfTimes(device, clock=lambda: 0.0)
        with _parts_enter_phases(trainer, warmup), warmup:
            for _ in range(_WARMUP_STEPS):
                trainer.step()
            trainer.read_losses()
        times = _SelfTimes(device, clock=clock)
        with _parts_enter_phases(trainer, times), times, times.phase("other"):
            for _ in range(num_steps):
                trainer.step()
            with times.phase("logging"):
                trainer.read_losses()
            with times.phase("checkpoint"):
                trainer.save()
        return times.rows(num_steps)


class _SelfTimes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its modes unannotated
    """Charges the time that passes to the innermost phase, and the part of it inside an operation to that, too.

    Backward passes on a GPU dispatch from threads of autograd, one at a time while the main thread waits: nothing
    here belongs to a thread.
    """

    def __init__(self, device: torch.device, *, clock: Callable[[], float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self._device, self._clock = device, clock
        self._phases: list[str] = []
        self._charged_until = 0.0
        self._phase_s: defaultdict[str, float] = defaultdict(float)
        # By phase, operation and type: the text is made at the end, not between operations.
        self._counts: defaultdict[tuple[str, Any, torch.dtype | None], int] = defaultdict(int)
        self._operation_s: defaultdict[tuple[str, Any, torch.dtype | None], float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Be in a phase, and then in the surrounding one again."""
        self._charge()
        self._phases.append(name)
        try:
            yield
        finally:
            self._charge()
            self._phases.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        began = self._now()
        result = func(*args, **kwargs)
        elapsed = self._now() - began
        if self._phases:
            key = self._phases[-1], func, _first_dtype((*args, *kwargs.values()))
            self._counts[key] += 1
            self._operation_s[key] += elapsed
        return result

    def rows(self, num_steps: int) -> list[PhaseTime]:
        """Return the times of all phases, each phase's operations by name; those of steps divided by their number."""
        rows = []
        for phase in PHASES:
            parts = num_steps if phase in STEP_PHASES else 1
            counts: defaultdict[str, int] = defaultdict(int)
            seconds: defaultdict[str, float] = defaultdict(float)
            for key in [key for key in self._counts if key[0] == phase]:
                counts[_text(*key[1:])] += self._counts[key]
                seconds[_text(*key[1:])] += self._operation_s[key]
            counts[PYTHON], seconds[PYTHON] = 0, self._phase_s[phase] - sum(seconds.values())
            for operation in sorted(counts):
                per_part, rest = divmod(counts[operation], parts)
                count = counts[operation] / parts if rest else per_part
                rows.append(
                    PhaseTime(phase=phase, operation=operation, count=count, seconds=seconds[operation] / parts)
                )
        return rows

    def _charge(self) -> None:
        now = self._now()
        if self._phases:
            self._phase_s[self._phases[-1]] += now - self._charged_until
        self._charged_until = now

    def _now(self) -> float:
        synchronize(self._device)
        return self._clock()


@contextmanager
def _parts_enter_phases(trainer: Trainer, times: _SelfTimes) -> Iterator[None]:
    """Let the parts of a step enter their phases; put everything back, also after an error."""
    parts: list[tuple[Any, str, str]] = [
        (trainer, "_draw", "data"),
        (kernel, "accumulate_gradients", "forward"),
        (torch.Tensor, "backward", "backward"),
        (torch.nn.utils, "clip_grad_norm_", "clip"),
        (trainer_module, "train_step", "optimizer"),
    ]
    with ExitStack() as replaced:
        for owner, name, phase in parts:
            entering = times.phase(phase)(getattr(owner, name))
            replaced.enter_context(mock.patch.object(owner, name, entering))
        yield


@contextmanager
def _without_collections() -> Iterator[None]:
    """Let no garbage be collected: the phase that happens to start a collection would pay for all others."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _first_dtype(values: Iterable[Any]) -> torch.dtype | None:
    """Return the type of the first tensor, also within lists; None without any."""
    for value in values:
        if isinstance(value, Tensor):
            return value.dtype
        if isinstance(value, list | tuple) and (found := _first_dtype(value)) is not None:
            return found
    return None


def _text(func: Any, dtype: torch.dtype | None) -> str:
    name: str = func.name().split(".")[0]  # overloads of an operation are one
    return f"{name} {str(dtype).removeprefix('torch.')}" if dtype else name
