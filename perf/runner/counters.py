"""What one training step does, counted exactly: the same in every process and on every machine with the same torch."""

from __future__ import annotations

import gc
import platform
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from perf.records.sessions import StepCounters
from perf.train.devices import synchronize

_aten = torch.ops.aten
_SYNCS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal", "aten::masked_select"}


def _attention_flops(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]  # torch: unannotated; shapes


def _attention_backward_flops(
    grad: Any, query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **options: Any
) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))  # type: ignore[no-untyped-call]  # the same


# torch counts the fused attention of every device but the CPU.
_CPU_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def count_step(step: Callable[[], object], device: torch.device) -> StepCounters:
    """Count one step, after a step that lets every buffer come into being; makes three steps.

    Counting is slow and runs on one thread, so that scratch memory per thread does not count: nothing here is timed.
    What torch.compile has compiled, or would, runs uncompiled: counts are those of the operations as written. They do
    not depend on the compiler, its version and what it fuses, and no dispatch reaches the kernels that it makes.

    Args:
        step: makes one optimizer step; what it returns is dropped. Its `parameters` are the distinct trainable ones
            of all optimizers that it steps: none without an optimizer of torch's.
        device: where it computes.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    updates = _Updates()
    hook = register_optimizer_step_post_hook(updates.on_update)
    try:
        with as_written():
            return _count(step, device, updates)
    finally:
        hook.remove()
        torch.set_num_threads(num_threads)


@contextmanager
def as_written() -> Iterator[None]:
    """Let operations run as written rather than compiled, and let no garbage be collected.

    A collection would free, and call, at a moment of its own; whatever happens to start it would pay for all others.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
            # Hooks on all modules, which see what torch.compile returns as one module more: that is no harm here.
            warnings.filterwarnings("ignore", message="Using `torch.compile", category=UserWarning)
            yield
    finally:
        if was_enabled:
            gc.enable()


def _count(step: Callable[[], object], device: torch.device, updates: _Updates) -> StepCounters:
    step()
    ops = _Operations()
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as flops, ops:
        updates.keeps = True
        step()
        updates.keeps = False
    calls = _PythonCalls()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with profile(activities=_activities(device), profile_memory=True, acc_events=True) as profiler:
        calls.count(step)
        synchronize(device)
    allocated, peak = _memory(profiler)
    return StepCounters(
        ops=dict(sorted(ops.counts.items())),
        flops=flops.get_total_flops(),
        allocated_bytes=allocated,
        peak_bytes=peak,
        device_peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
        host_syncs=ops.host_syncs,
        parameters=updates.num_trainable(),
        optimizer_updates=len(updates.optimizers),
        python_calls=calls.number,
    )


class _Updates:
    """Remembers which optimizers stepped, while it `keeps` them: a kept optimizer is memory in use."""

    def __init__(self) -> None:
        self.optimizers: list[Optimizer] = []
        self.keeps = False

    def on_update(self, optimizer: Optimizer, *_: object) -> None:
        if self.keeps:
            self.optimizers.append(optimizer)

    def num_trainable(self) -> int:
        """Return how many trainable numbers the optimizers have, each once."""
        parameters = {p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]}
        return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its modes unannotated
    """Counts what reaches a kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.counts: Counter[str] = Counter()
        self.host_syncs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.name().split(".")[0]
        self.counts[name] += 1
        self.host_syncs += name in _SYNCS or _copies_to_host(args, result)
        return result


def _copies_to_host(args: Any, result: Any) -> bool:
    tensors = [value for value in args if isinstance(value, torch.Tensor)]
    on_gpu = any(tensor.device.type != "cpu" for tensor in tensors)
    return on_gpu and isinstance(result, torch.Tensor) and result.device.type == "cpu"


class _PythonCalls:
    """Counts Python functions entered, on this thread."""

    number = 0

    def count(self, function: Callable[[], object]) -> None:
        previous = sys.getprofile()
        sys.setprofile(self._on_event)
        try:
            function()
        finally:
            sys.setprofile(previous)

    def _on_event(self, frame: FrameType, event: str, argument: object) -> None:
        self.number += event == "call"


def _activities(device: torch.device) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])


def _memory(profiler: profile) -> tuple[int, int]:
    """Return bytes handed out, and the highest sum of what was handed out and taken back."""
    assert profiler.profiler is not None
    results: Any = profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    allocated = in_use = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += max(event.nbytes(), 0)
        in_use += event.nbytes()
        peak = max(peak, in_use)
    return allocated, peak


def python_and_numpy() -> str:
    """Return the versions that `StepCounters.python_calls` belongs to: numpy draws the data, in Python functions."""
    return f"{'.'.join(platform.python_version_tuple()[:2])} with numpy {np.__version__}"
