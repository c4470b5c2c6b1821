"""What one training step does, as exact counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCounters:
    """What one optimizer step at steady state does, on one rank.

    Attributes:
        ops: how often each operation was dispatched, by name.
        flops: floating-point operations of matrix products, attention and convolutions (two for a multiply-add).
        allocated_bytes: what torch's allocators handed out, on all devices.
        peak_bytes: the most that was in use at a time beyond what the step began with.
        device_peak_bytes: the most that was in use at a time on the GPU, in all; 0 on a CPU.
        host_syncs: operations that make Python wait for a value: ``.item()``, ``bool()`` and the like, and on a GPU
            copies to the host (``.tolist()``, ``.cpu()``), which on a CPU wait for nothing.
        parameters: trainable numbers.
        optimizer_updates: updates of the weights.
        python_calls: Python functions entered; depends on the versions of Python and numpy.
    """

    ops: dict[str, int]
    flops: int
    allocated_bytes: int
    peak_bytes: int
    device_peak_bytes: int
    host_syncs: int
    parameters: int
    optimizer_updates: int
    python_calls: int
