"""What was measured: raw values of every run, never only their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perf.records.counters import StepCounters
from perf.records.fingerprint import Fingerprint


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRun:
    """One fresh process that trained from step 0.

    Attributes:
        step_s: seconds of each step, the first ones included.
        warmup_steps: how many of them, at the front, are not used for times; see `find_warmup`.
        losses: of each step, nats.
        lines: its log.
        counters: what one step does.
    """

    step_s: tuple[float, ...]
    warmup_steps: int
    losses: tuple[float, ...]
    lines: tuple[str, ...]
    counters: StepCounters

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

    global_batch_size: int
    micro_batch_size: int
    runs: tuple[MeasuredRun, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """Everything measured in one sitting: one workload on one machine.

    Attributes:
        workload: its name.
        device, precision, seed: how it was run.
        fingerprint: the machine and software of every run.
        python: the versions of Python and numpy, which the count of Python calls belongs to.
        measurements: one for each batch size that could be measured.
        failures: what went wrong, by the batch size that could not be.
    """

    workload: str
    device: str
    precision: str
    seed: int
    fingerprint: Fingerprint
    python: str
    measurements: dict[int, Measurement]
    failures: dict[int, str]

    @property
    def configuration(self) -> str:
        """What was run and how, in a word; baselines are kept under it."""
        return configuration(self.workload, self.device, self.precision)


def configuration(workload: str, device: str, precision: str) -> str:
    """Return the name that baselines of a workload, device type and precision are kept under."""
    return f"{workload}-{device}-{precision}"


def find_warmup(step_s: Sequence[float]) -> int:
    """Return how many steps at the front were slower than the run's later half ever explains.

    The limit is the median of the second half plus five times its spread (median absolute deviation, scaled to a
    standard deviation). The first step below it ends the warm-up. If none is in the first half, the machine was
    slower there altogether, which is a phase and no warm-up: then only the first step is dropped.
    """
    later = np.asarray(step_s[len(step_s) // 2 :])
    spread = 1.4826 * float(np.median(np.abs(later - np.median(later))))
    limit = float(np.median(later)) + 5 * spread
    for index, seconds in enumerate(step_s[: len(step_s) // 2]):
        if seconds <= limit:
            return index
    return 1
