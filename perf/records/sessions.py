"""What was measured: raw values of every run, never only their mean."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from msgspec import Meta

from perf.records import fields
from perf.records.fingerprint import Fingerprint
from perf.robust import deviation


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCounters:
    """What one optimizer step at steady state does, on one rank."""

    # how often each operation was dispatched, by name
    ops: Annotated[dict[fields.Word, fields.Positive], Meta(min_length=1, max_length=10_000)]
    # floating-point operations of matrix products, attention and convolutions (two for a multiply-add)
    flops: fields.Count
    allocated_bytes: fields.Count  # what torch's allocators handed out, on all devices
    peak_bytes: fields.Count  # the most that was in use at a time beyond what the step began with
    device_peak_bytes: fields.Count  # the most that was in use at a time on the GPU, in all; 0 on a CPU
    # operations that make Python wait for a value: ``.item()``, ``bool()`` and the like, and on a GPU copies to the
    # host (``.tolist()``, ``.cpu()``), which on a CPU wait for nothing
    host_syncs: fields.Count
    parameters: fields.Count  # trainable numbers
    optimizer_updates: fields.Count  # updates of the weights
    python_calls: fields.Count  # Python functions entered; depends on the versions of Python and numpy


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRun:
    """One fresh process that trained from step 0."""

    losses: fields.Losses  # of each step, nats
    counters: StepCounters  # what one step does
    step_s: fields.Times = ()  # seconds of each step, the first ones included; none where only work and losses are kept
    warmup_steps: fields.Count = 0  # how many steps at the front are not used for times; see `find_warmup`
    lines: Annotated[tuple[fields.Text, ...], Meta(max_length=10**6)] = ()  # its log
    # what else a step returned, by name, of each step
    scalars: Annotated[dict[fields.Word, fields.Scalars], Meta(max_length=1000)] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = {**self.scalars, "times": self.step_s or self.losses}
        if wrong := [f"{len(values)} {name}" for name, values in found.items() if len(values) != len(self.losses)]:
            raise ValueError(f"{len(self.losses)} losses and {wrong[0]} do not fit together")
        if self.warmup_steps >= len(self.losses):
            raise ValueError(f"{len(self.losses)} losses and {self.warmup_steps} steps of warm-up do not fit together")

    @property
    def curves(self) -> dict[str, tuple[float, ...]]:
        """What the steps returned, by name; "loss" comes first."""
        return {"loss": self.losses, **self.scalars}

    @property
    def timed_step_s(self) -> tuple[float, ...]:
        """Seconds of each step after the warm-up."""
        return self.step_s[self.warmup_steps :]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """All runs of one workload at one batch size."""

    # global_batch_size, micro_batch_size: samples per step, and per forward pass
    global_batch_size: fields.BatchSize
    micro_batch_size: fields.BatchSize
    # in the order they were made; run ``i`` was interleaved with run ``i`` of the other batch sizes
    runs: Annotated[tuple[MeasuredRun, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size: {self.micro_batch_size} does not divide {self.global_batch_size}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """Everything measured of one workload in one sitting, on one machine."""

    workload: str  # its id
    # device, precision, seed: how it was run
    device: fields.Device
    precision: fields.Precision
    seed: fields.Count
    fingerprint: Fingerprint  # the machine and software of every run
    python: fields.Word  # the versions of Python and numpy, which the count of Python calls belongs to
    # one for each batch size that could be measured
    measurements: Annotated[dict[fields.BatchSize, Measurement], Meta(min_length=1)]
    failures: dict[fields.BatchSize, fields.Text]  # what went wrong, by the batch size that could not be measured
    sample: fields.Word = "samples"  # what one sample is called
    # facts of the workload that decide what a step does
    about: Annotated[dict[fields.Word, fields.About], Meta(max_length=1000)] = field(default_factory=dict)
    # the smallest change of its rate that matters, a fraction; None where the workload has none of its own
    threshold: fields.Fraction | None = None
    # how the machine was when measuring began: load, clock; what could not be read is missing
    health: Annotated[dict[fields.Word, fields.Fact], Meta(max_length=100)] = field(default_factory=dict)
    times_unfit: fields.Sentence = ""  # why its times are too noisy to compare with later; "" where they are not

    def __post_init__(self) -> None:
        if problem := fields.name_problem(self.configuration):
            raise ValueError(problem)
        measurements = self.measurements.values()
        if (found := [m.global_batch_size for m in measurements]) != list(self.measurements):
            raise ValueError(f"measurements: found global_batch_size {found} under {list(self.measurements)}")
        if len({len(m.runs) for m in measurements}) > 1:
            raise ValueError("has more runs of one batch size than of another")
        if len({len(run.losses) for m in measurements for run in m.runs}) > 1:
            raise ValueError("has more steps of one run than of another")

    @property
    def configuration(self) -> str:
        """What was run and how, in a word; baselines are kept under it."""
        return configuration(self.workload, self.device, self.precision)


def configuration(workload: str, device: str, precision: str) -> str:
    """Return what a workload, device type and precision are called together; `baseline_path` makes a file of it."""
    return f"{workload}-{device}-{precision}"


def find_warmup(step_s: Sequence[float]) -> int:
    """Return how many steps at the front were slower than the run's later half ever explains.

    The limit is the median of the second half plus five times its spread (median absolute deviation, scaled to a
    standard deviation). The first step below it ends the warm-up. If none is in the first half, the machine was
    slower there altogether, which is a phase and no warm-up: then only the first step is dropped.
    """
    later = np.asarray(step_s[len(step_s) // 2 :])
    limit = float(np.median(later)) + 5 * float(deviation(later))
    return next((index for index, seconds in enumerate(step_s[: len(step_s) // 2]) if seconds <= limit), 1)
