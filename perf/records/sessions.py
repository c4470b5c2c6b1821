"""What was measured: raw values of every run, never only their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from msgspec import Meta

from perf.records.counters import StepCounters
from perf.records.fields import (
    About,
    BatchSize,
    Count,
    Device,
    Fraction,
    Loss,
    Precision,
    Scalar,
    Seconds,
    Sentence,
    Text,
    Word,
    name_problem,
)
from perf.records.fingerprint import Fingerprint
from perf.robust import deviation

Losses = Annotated[tuple[Loss, ...], Meta(min_length=4, max_length=10**6)]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRun:
    """One fresh process that trained from step 0.

    Attributes:
        step_s: seconds of each step, the first ones included.
        warmup_steps: how many of them, at the front, are not used for times; see `find_warmup`.
        losses: of each step, nats.
        lines: its log.
        counters: what one step does.
        scalars: what else a step returned, by name, of each step.
    """

    step_s: Annotated[tuple[Seconds, ...], Meta(min_length=4, max_length=10**6)]
    warmup_steps: Count
    losses: Losses
    lines: Annotated[tuple[Text, ...], Meta(max_length=10**6)]
    counters: StepCounters
    scalars: Annotated[dict[Word, tuple[Scalar, ...]], Meta(max_length=1000)] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_steps = len(self.step_s)
        found = {"losses": len(self.losses), **{name: len(values) for name, values in self.scalars.items()}}
        if wrong := [f"{number} {name}" for name, number in found.items() if number != num_steps]:
            raise ValueError(f"{num_steps} times and {wrong[0]} do not fit together")
        if self.warmup_steps >= num_steps:
            raise ValueError(f"{num_steps} times and {self.warmup_steps} steps of warm-up do not fit together")

    @property
    def timed_step_s(self) -> tuple[float, ...]:
        """Seconds of each step after the warm-up."""
        return self.step_s[self.warmup_steps :]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """All runs of one workload at one batch size.

    Attributes:
        global_batch_size, micro_batch_size: samples per step, and per forward pass.
        runs: in the order they were made; run ``i`` was interleaved with run ``i`` of the other batch sizes.
    """

    global_batch_size: BatchSize
    micro_batch_size: BatchSize
    runs: Annotated[tuple[MeasuredRun, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        require_whole(self.global_batch_size, self.micro_batch_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """Everything measured of one workload in one sitting, on one machine.

    Attributes:
        workload: its id.
        device, precision, seed: how it was run.
        fingerprint: the machine and software of every run.
        python: the versions of Python and numpy, which the count of Python calls belongs to.
        measurements: one for each batch size that could be measured.
        failures: what went wrong, by the batch size that could not be.
        sample: what one sample is called.
        about: facts of the workload that decide what a step does.
        threshold: the smallest change of its rate that matters, a fraction; None for the session's.
        times_unfit: why its times are too noisy to compare with later; "" where they are not.
    """

    workload: str
    device: Device
    precision: Precision
    seed: Count
    fingerprint: Fingerprint
    python: Word
    measurements: Annotated[dict[BatchSize, Measurement], Meta(min_length=1)]
    failures: dict[BatchSize, Text]
    sample: Word = "samples"
    about: Annotated[dict[Word, About], Meta(max_length=1000)] = field(default_factory=dict)
    threshold: Fraction | None = None
    times_unfit: Sentence = ""

    def __post_init__(self) -> None:
        if problem := name_problem(self.configuration):
            raise ValueError(problem)
        for size, measurement in self.measurements.items():
            if measurement.global_batch_size != size:
                raise ValueError(f"measurements: found global_batch_size {measurement.global_batch_size} under {size}")
        if len({len(m.runs) for m in self.measurements.values()}) > 1:
            raise ValueError("has more runs of one batch size than of another")
        if len({len(run.step_s) for m in self.measurements.values() for run in m.runs}) > 1:
            raise ValueError("has more steps of one run than of another")

    @property
    def configuration(self) -> str:
        """What was run and how, in a word; baselines are kept under it."""
        return configuration(self.workload, self.device, self.precision)


def configuration(workload: str, device: str, precision: str) -> str:
    """Return what a workload, device type and precision are called together; `baseline_path` makes a file of it."""
    return f"{workload}-{device}-{precision}"


def require_whole(global_batch_size: int, micro_batch_size: int) -> None:
    """Raise ValueError where micro-batches do not make up a batch."""
    if global_batch_size % micro_batch_size:
        raise ValueError(f"micro_batch_size: {micro_batch_size} does not divide {global_batch_size}")


def find_warmup(step_s: Sequence[float]) -> int:
    """Return how many steps at the front were slower than the run's later half ever explains.

    The limit is the median of the second half plus five times its spread (median absolute deviation, scaled to a
    standard deviation). The first step below it ends the warm-up. If none is in the first half, the machine was
    slower there altogether, which is a phase and no warm-up: then only the first step is dropped.
    """
    later = np.asarray(step_s[len(step_s) // 2 :])
    limit = float(np.median(later)) + 5 * float(deviation(later))
    for index, seconds in enumerate(step_s[: len(step_s) // 2]):
        if seconds <= limit:
            return index
    return 1
