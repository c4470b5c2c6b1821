"""The parts that a step is made of, as torch's hooks see them begin and end, and the time charged to their phases.

Some parts are known when they begin. What lies between two of them is told by both: what comes before a forward pass
is "data" at the beginning of a step, and "other" after an update.
"""

import functools
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from perf.records.wire import PYTHON, STEP_PHASES
from perf.seam import phases_heard
from perf.train.devices import synchronize

_BACKWARD = (Tensor.backward, torch.autograd.backward, torch.autograd.grad)

# The phase of what lies between two parts, by theirs; in a step, and in an optimizer's closure.
_LOSS = {("forward", "forward"): "forward", ("forward", "backward"): "forward"}
_BETWEEN = {"other": {("start", "forward"): "data", ("backward", "optimizer"): "clip", **_LOSS}, "optimizer": _LOSS}


class Charge(NamedTuple):
    """Time that passed in one operation, or between two."""

    operation: str  # as in `PhaseTime`; `PYTHON` outside of all operations
    seconds: float
    line: str  # the source line that called it; "" where that is not asked for


class Part:
    """A part whose phase is known when it begins; `gives_way` if hooks found it, to what they find in it."""

    def __init__(self, phase: str, *, gives_way: bool = False) -> None:
        self.phase, self.gives_way = phase, gives_way


class Gap(Part):
    """What lies between the known parts of a step, or of an optimizer's closure; its neighbours may tell its phase."""

    def __init__(self, phase: str) -> None:
        super().__init__(phase, gives_way=True)
        self.follows = "start"  # the phase of the last part
        self.charges: list[Charge] = []


class Timeline:
    """Charges the time that passes to the innermost part."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.phases: defaultdict[str, list[Charge]] = defaultdict(list)  # what is in a gap is charged when it ends
        self.parts = [Part("other", gives_way=True)]  # those that have begun and not ended, the innermost last
        self._clock = clock
        self._charged_until = clock()

    @property
    def part(self) -> Part:
        """The innermost part."""
        return self.parts[-1]

    @contextmanager
    def inside(self, part: Part) -> Iterator[None]:
        """Be in a part, and then in the surrounding one again, whatever began in it and did not end."""
        depth = len(self.parts)
        self.begin(part)
        try:
            yield
        finally:
            while len(self.parts) > depth:
                self.end()

    def begin(self, part: Part) -> None:
        """Be in a part until `end`. The innermost one goes on if it is that part, or does not give way to it."""
        if part.gives_way and not self.part.gives_way:
            part = self.part
        if part is not self.part:
            self._leave(part.phase)
        self.parts.append(part)

    def end(self) -> None:
        """Be in the surrounding part again."""
        if self.parts[-1] is not self.parts[-2]:
            self._leave("end")
        self.parts.pop()

    def charge(self, operation: str = PYTHON, line: str = "") -> None:
        """Charge what passed since the last time to the operation that has ended."""
        now, part = self._clock(), self.part
        charges = part.charges if isinstance(part, Gap) else self.phases[part.phase]
        charges.append(Charge(operation, now - self._charged_until, line))
        self._charged_until = now

    def _leave(self, phase: str) -> None:
        """Charge the innermost part. A gap is told by the phase that follows; "other" only interrupts it."""
        self.charge()
        gap = self.part
        if isinstance(gap, Gap) and phase != "other":
            self.phases[_BETWEEN[gap.phase].get((gap.follows, phase), gap.phase)] += gap.charges
            gap.follows, gap.charges = phase, []


@contextmanager
def observed(
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
        stack.callback(register_module_forward_pre_hook(hooks.before_module).remove)
        stack.callback(register_module_forward_hook(hooks.after_module, always_call=True).remove)
        stack.callback(register_optimizer_step_pre_hook(hooks.before_update).remove)
        stack.callback(register_optimizer_step_post_hook(hooks.after_update).remove)
        stack.enter_context(phases_heard(hooks.phase))
        stack.enter_context(hooks)
        stack.enter_context(_Operations(timeline, find_line))
        yield timeline


class _Hooks(TorchFunctionMode):
    """What torch, or the step itself, calls where parts begin and end; of functions, that is a backward pass.

    Hooks are called from all threads, and what other threads do is not the step's.
    """

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline, self._thread = timeline, threading.get_ident()

    def phase(self, name: str) -> AbstractContextManager[object]:
        if name not in STEP_PHASES:
            raise ValueError(f"phase: found {name!r:.40}, and one of {', '.join(STEP_PHASES)} is needed")
        return self._timeline.inside(Part(name)) if self._is_main() else nullcontext()

    def before_module(self, module: nn.Module, *_: object) -> None:
        if self._is_main():
            part = self._timeline.part
            begins = isinstance(part, Gap) and next(module.parameters(), None) is not None
            self._timeline.begin(Part("forward", gives_way=True) if begins else part)

    def after_module(self, *_: object) -> None:
        if self._is_main():
            self._timeline.end()

    def before_update(self, *_: object) -> None:
        if self._is_in_step():
            self._timeline.begin(Gap("optimizer"))

    def after_update(self, *_: object) -> None:
        if self._is_in_step():
            self._timeline.end()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _BACKWARD:
            return func(*args, **kwargs)
        with self._timeline.inside(Part("backward", gives_way=True)):
            return func(*args, **kwargs)

    def _is_main(self) -> bool:
        return threading.get_ident() == self._thread

    def _is_in_step(self) -> bool:
        # On a GPU, an update in a backward pass is in a thread of autograd, and the step's thread waits.
        return self._is_main() or any(part.phase == "backward" for part in self._timeline.parts)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its modes unannotated
    """Times what reaches a kernel; on a GPU, that of a backward pass from threads of autograd."""

    def __init__(self, timeline: Timeline, find_line: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self._timeline, self._find_line = timeline, find_line

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        dtypes = (leaf.dtype for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor))
        operation = _name(func, next(dtypes, None))
        self._timeline.charge()
        result = func(*args, **kwargs)
        self._timeline.charge(operation, self._find_line())
        return result


@functools.cache
def _name(func: Any, dtype: torch.dtype | None) -> str:
    """Return the name of an operation, as in `PhaseTime`; overloads of an operation are one."""
    name: str = func.name().split(".")[0]
    return f"{name} {str(dtype).removeprefix('torch.')}" if dtype else name
