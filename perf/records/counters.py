"""What one training step does, as exact counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from perf.records.fields import Count, Positive, Word


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

    ops: Annotated[dict[Word, Positive], Meta(min_length=1, max_length=10_000)]
    flops: Count
    allocated_bytes: Count
    peak_bytes: Count
    device_peak_bytes: Count
    host_syncs: Count
    parameters: Count
    optimizer_updates: Count
    python_calls: Count
