"""The measured claims, one test for each claim and batch size; see CONTRIBUTING.md for what their outcomes mean."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from perf.judge.duets import DuetResult, as_claims
from perf.judge.verdicts import Judgement, judge_counters, judge_fall, judge_losses, judge_rates, judge_scaling
from perf.records.baselines import Baseline, Expected
from perf.records.sessions import Measurement, Session

pytestmark = pytest.mark.perf

Settle = Callable[[Judgement], None]


class RecordedClock:
    """Shows pytest-benchmark the times that the measuring processes recorded: each call of `advance` is one step."""

    __name__ = "recorded_clock"

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        """Return the time, seconds."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let a step go by."""
        self._now_s += seconds


recorded_clock = RecordedClock()


@pytest.fixture
def measurement(measured: Session, global_batch_size: int) -> Measurement:
    """The runs at the test's batch size."""
    if global_batch_size in measured.failures:
        pytest.fail(f"global batch size {global_batch_size}: {measured.failures[global_batch_size]}", pytrace=False)
    return measured.measurements[global_batch_size]


def test_fall(measurement: Measurement, settle: Settle) -> None:
    """The loss falls, in every run."""
    settle(judge_fall(measurement))


def test_losses(
    measurement: Measurement,
    measured: Session,
    expected: Expected | None,
    duet: DuetResult | None,
    settle: Settle,
) -> None:
    """The runs have the same losses, and those of the stored curve; and of the baseline's commit beside them."""
    size = measurement.global_batch_size
    side_by_side = as_claims(duet, size).get("losses") if duet and size in duet.work else None
    settle(side_by_side or judge_losses(measured, size, expected))


def test_counters(measurement: Measurement, measured: Session, expected: Expected | None, settle: Settle) -> None:
    """The runs do the same work in a step, and the stored work."""
    settle(judge_counters(measured, measurement.global_batch_size, expected))


@pytest.mark.benchmark(timer=recorded_clock, group="training step")
def test_rate(
    measurement: Measurement,
    measured: Session,
    baseline: Baseline | None,
    duet: DuetResult | None,
    rate_threshold: float,
    settle: Settle,
    benchmark: BenchmarkFixture,
) -> None:
    """Samples/sec are those of the baseline."""
    times = [seconds for run in measurement.runs for seconds in run.timed_step_s]
    remaining = iter(times)
    benchmark.pedantic(lambda: recorded_clock.advance(next(remaining, 0.0)), rounds=len(times))
    benchmark.extra_info["workload"] = measured.workload
    benchmark.extra_info["samples_per_sec"] = [
        measurement.global_batch_size * len(run.timed_step_s) / sum(run.timed_step_s) for run in measurement.runs
    ]
    if duet and measurement.global_batch_size in duet.work:
        settle(as_claims(duet, measurement.global_batch_size)["rate"])
    else:
        settle(judge_rates(measured, baseline, threshold=rate_threshold)[measurement.global_batch_size])


def test_scaling(
    measurement: Measurement,
    measured: Session,
    baseline: Baseline | None,
    duet: DuetResult | None,
    scaling_threshold: float,
    settle: Settle,
) -> None:
    """Samples/sec beside those of the other batch sizes are as in the baseline."""
    if duet and measurement.global_batch_size in duet.work:
        settle(as_claims(duet, measurement.global_batch_size)["scaling"])
    else:
        settle(judge_scaling(measured, baseline, threshold=scaling_threshold)[measurement.global_batch_size])
