"""Where the time of a training step goes: per phase, and in it per operation.

Every operation is timed alone, and on a GPU waited for, so a step takes longer than in training: these times say
where to look, and mean something beside another side's that were taken alike. What torch.compile has compiled runs
uncompiled, as it does for the counters. Phases follow from torch's hooks, so the step may be anyone's code:

- "data" is what a step begins with, up to "forward". That is a module with parameters, what operations outside of
  modules record for a backward pass, and the loss, up to "backward": what runs in `backward` and `autograd.grad`.
- "clip" is what lies between a backward pass and an optimizer's step, and "optimizer" that step, without the passes
  that a closure makes in it. All else, also what cannot be told apart, is "other".

Zeroing gradients belongs where it stands: before the data it is "data", after the update "other". A step that says
its phases itself (`perf.seam.Case.phase`) is believed.
"""

import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from perf.records.wire import PYTHON, STEP_PHASES, PhaseTime
from perf.runner.counters import as_written
from perf.runner.lines import calling_line
from perf.runner.phases import Costs, Gap, Part, Timeline
from perf.seam import phases_heard
from perf.train.devices import keep_freed_memory, synchronize

_MOST_LINES = 20  # of an operation in a phase

_BACKWARD = (Tensor.backward, torch.autograd.backward, torch.autograd.grad)


def attribute(
    step: Callable[[], object],  # makes one optimizer step; what it returns is dropped
    *,
    device: torch.device,  # where it computes
    num_steps: int,  # how many to time
    read: Callable[[], object] | None = None,  # reads the losses since its last call: phase "logging"
    save: Callable[[Path], object] | None = None,  # writes to a temporary directory: phase "checkpoint"
    clock: Callable[[], float] = time.perf_counter,  # monotonic, seconds
) -> list[PhaseTime]:
    """Time steps, after a warm-up, and then one reading of their losses and one checkpoint, where given.

    All rows together, those of a step `num_steps` times, are the time that elapsed.

    Raises:
        ValueError: the step said a phase that is none of `STEP_PHASES`.
        OSError: the temporary directory could not be made.
    """
    with TemporaryDirectory() as directory, as_written():
        keep_freed_memory()  # as every run does: it decides whether operations have page faults
        with _attached(device, lambda: 0.0) as warmup:
            _advance(warmup, step, 1, None)
        # Where operations come from is found before they are timed: finding it takes time.
        with _attached(device, lambda: 0.0, calling_line) as warmup:
            _advance(warmup, step, 1, read)
        with _attached(device, clock) as timeline:
            _advance(timeline, step, num_steps, read)
            if save:
                with timeline.inside(Part("checkpoint")):
                    save(Path(directory))
    parts = dict.fromkeys(STEP_PHASES, num_steps)
    parts.update({phase: 1 for phase, function in (("logging", read), ("checkpoint", save)) if function})
    return [
        row
        for phase in parts
        for row in _rows(phase, timeline.phases[phase], parts[phase], _lines(warmup.phases[phase].lines))
    ]


def _advance(timeline: Timeline, step: Callable[[], object], num_steps: int, read: Callable[[], object] | None) -> None:
    for _ in range(num_steps):
        with timeline.inside(Gap("other")):
            step()
    if read:
        with timeline.inside(Part("logging")):
            read()


def _lines(found: Mapping[tuple[Any, str], int]) -> dict[str, dict[str, float]]:
    """Return the lines that call each operation, by its name, and how often; the most frequent ones."""
    lines: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for (key, line), count in sorted(found.items(), key=lambda item: -item[1]):
        own = lines[_text(key)]
        if line in own or len(own) < _MOST_LINES:
            own[line] = own.get(line, 0) + count
    return lines


def _rows(phase: str, costs: Costs, parts: int, lines: Mapping[str, Mapping[str, float]]) -> list[PhaseTime]:
    """Return a phase's operations by name, their counts and times divided by the number of parts."""
    counts, seconds = Counter({PYTHON: 0}), defaultdict[str, float](float)
    for key, elapsed in costs.seconds.items():
        operation = _text(key)
        counts[operation] += costs.counts[key]
        seconds[operation] += elapsed
    rows = []
    for operation in sorted(counts):
        per_part, rest = divmod(counts[operation], parts)
        count = counts[operation] / parts if rest else per_part
        seconds_each = seconds[operation] / parts
        rows.append(
            PhaseTime(
                phase=phase, operation=operation, count=count, seconds=seconds_each, lines=lines.get(operation, {})
            )
        )
    return rows


@contextmanager
def _attached(
    device: torch.device, clock: Callable[[], float], find_line: Callable[[], str] = str
) -> Iterator[Timeline]:
    """See every module, update, backward pass and operation, and nothing any more afterwards."""
    process = os.getpid()

    def now() -> float:
        if os.getpid() == process:  # a process forked from a step, such as a loader of data, must not use its GPU
            synchronize(device)
        return clock()

    timeline = Timeline(now)
    hooks = _Hooks(timeline)
    with ExitStack() as stack:
        for handle in (
            register_module_forward_pre_hook(hooks.before_module),
            register_module_forward_hook(hooks.after_module, always_call=True),
            register_optimizer_step_pre_hook(hooks.before_update),
            register_optimizer_step_post_hook(hooks.after_update),
        ):
            stack.callback(handle.remove)
        stack.enter_context(phases_heard(hooks.phase))
        stack.enter_context(_BackwardPasses(timeline))
        stack.enter_context(_Operations(timeline, find_line))
        yield timeline


class _Hooks:
    """What torch, or the step itself, calls where parts begin and end.

    Hooks are called from all threads. What other threads do is not the step's, but for an update in a backward pass:
    on a GPU, that is in a thread of autograd, and the step's thread waits.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline, self._thread = timeline, threading.get_ident()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        if name not in STEP_PHASES:
            known = ", ".join(STEP_PHASES)
            raise ValueError(f"phase: found {name!r:.40}, and a phase of a step is needed; name one of {known}")
        with self._timeline.inside(Part(name)) if self._is_main() else nullcontext():
            yield

    def before_module(self, module: nn.Module, *_: object) -> None:
        if self._is_main():
            part = self._timeline.part
            begins = isinstance(part, Gap) and next(module.parameters(), None) is not None
            self._timeline.begin(Part("forward", gives_way=True) if begins else part)

    def after_module(self, *_: object) -> None:
        if self._is_main():
            self._timeline.end()

    def before_update(self, *_: object) -> None:
        if self._is_main() or self._timeline.is_in("backward"):
            part = self._timeline.part
            self._timeline.begin(Gap("optimizer") if part.gives_way else part)

    def after_update(self, *_: object) -> None:
        if self._is_main() or self._timeline.is_in("backward"):
            self._timeline.end()

    def _is_main(self) -> bool:
        return threading.get_ident() == self._thread


class _BackwardPasses(TorchFunctionMode):
    """Sees where a backward pass begins and ends, also one within "forward"."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _BACKWARD:
            return func(*args, **kwargs)
        part = self._timeline.part
        with self._timeline.inside(Part("backward", gives_way=True) if part.gives_way else part):
            return func(*args, **kwargs)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its modes unannotated
    """Times and counts what reaches a kernel; on a GPU, that of a backward pass from threads of autograd."""

    def __init__(self, timeline: Timeline, find_line: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self._timeline, self._find_line = timeline, find_line

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        values = (*args, *kwargs.values())
        part, operation = self._timeline.part, (func, _first_dtype(values))
        # Whether autograd looks at an operation; detaching is how to tell it not to.
        is_seen = torch.is_grad_enabled() and func is not torch.ops.aten.detach.default
        records = isinstance(part, Gap) and is_seen and any(tensor.requires_grad for tensor in _tensors(values))
        self._timeline.charge()
        result = func(*args, **kwargs)
        if records and isinstance(part, Gap):
            dtype = _first_dtype((result,))
            part.is_recorded |= dtype is not None and (dtype.is_floating_point or dtype.is_complex)
        self._timeline.charge(operation, self._find_line())
        return result


def _first_dtype(values: Iterable[Any]) -> torch.dtype | None:
    return next((tensor.dtype for tensor in _tensors(values)), None)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Return the tensors of an operation, also within lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _text(key: Any) -> str:
    if key is None:
        return PYTHON
    func, dtype = key
    name: str = func.name().split(".")[0]  # overloads of an operation are one
    return f"{name} {str(dtype).removeprefix('torch.')}" if dtype else name
