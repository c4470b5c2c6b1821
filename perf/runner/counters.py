"""What one training step does, counted exactly: the same in every process and on every machine with the same torch."""

import gc
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import unwrap
from itertools import accumulate
from typing import Any

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

from perf.records.sessions import StepCounters
from perf.train.devices import synchronize

_aten = torch.ops.aten
_SYNCS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal", "aten::masked_select"}

# torch counts the fused attention of every device but the CPU; it wraps formulas itself, and must not wrap them twice.
_CPU_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: unwrap(sdpa_flop),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: unwrap(sdpa_backward_flop),
}


def count_step(step: Callable[[], object], device: torch.device) -> StepCounters:
    """Count one step, after a step that lets every buffer come into being; makes three steps.

    Counting is slow and runs on one thread, so that scratch memory per thread does not count: nothing here is timed.
    What torch.compile has compiled, or would, runs uncompiled: counts are those of the operations as written. They do
    not depend on the compiler, its version and what it fuses, and no dispatch reaches the kernels that it makes.
    `parameters` are the distinct trainable ones of all optimizers that it steps: none without an optimizer of torch's.
    """
    operations, optimizers, events = _Operations(), list[Optimizer](), list[str]()
    is_kept = False

    def on_update(optimizer: Optimizer, *_: object) -> None:
        if is_kept:  # in one step only: a kept optimizer is memory in use
            optimizers.append(optimizer)

    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        stack.callback(register_optimizer_step_post_hook(on_update).remove)
        stack.enter_context(as_written())
        step()
        with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as flops, operations:
            is_kept = True
            step()
            is_kept = False
        synchronize(device)
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.reset_peak_memory_stats(device)
        with profile(activities=activities, profile_memory=True, acc_events=True) as profiler:
            sys.setprofile(lambda frame, event, argument: events.append(event))
            try:
                step()
            finally:
                sys.setprofile(None)
            synchronize(device)
    allocated, peak = _memory(profiler)
    parameters = {p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    return StepCounters(
        ops=dict(sorted(operations.counts.items())),
        flops=flops.get_total_flops(),
        allocated_bytes=allocated,
        peak_bytes=peak,
        device_peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
        host_syncs=operations.host_syncs,
        parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        optimizer_updates=len(optimizers),
        python_calls=events.count("call"),
    )


@contextmanager
def as_written() -> Iterator[None]:
    """Let operations run as written rather than compiled, and let no garbage be collected.

    A collection would free, and call, at a moment of its own; whatever happens to start it would pay for all others.
    """
    gc.collect()
    gc.disable()
    try:
        with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
            # Hooks on all modules, which see what torch.compile returns as one module more: that is no harm here.
            warnings.filterwarnings("ignore", message="Using `torch.compile", category=UserWarning)
            yield
    finally:
        gc.enable()


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its modes unannotated
    """Counts what reaches a kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.counts: Counter[str] = Counter()
        self.host_syncs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.name().split(".")[0]
        self.counts[name] += 1
        self.host_syncs += name in _SYNCS or _copies_to_host(args, result)
        return result


def _copies_to_host(args: Any, result: Any) -> bool:
    on_gpu = any(isinstance(value, torch.Tensor) and value.device.type != "cpu" for value in args)
    return on_gpu and isinstance(result, torch.Tensor) and result.device.type == "cpu"


def _memory(profiler: profile) -> tuple[int, int]:
    assert profiler.profiler is not None
    results: Any = profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return sum(change for change in changes if change > 0), max(accumulate(changes, initial=0))
