"""The measured claims: one test for each claim and batch size, of a workload."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from perf.app.bench import Bench
    from perf.records.sessions import Measurement

Judge = Callable[[str], None]
"""Settles a claim: the test passes if it holds, fails if it does not, and is skipped if that is not known."""

_now_s = 0.0  # what `recorded_clock` shows


def recorded_clock() -> float:
    """Return the time, seconds: it passes as the measuring processes recorded it, step by step."""
    return _now_s


@pytest.mark.perf
class Claims:
    """The tests of a workload; a subclass in a test module is one of what --perf-workload names."""

    def test_loss_decreases(self, perf_judge: Judge) -> None:
        """The loss decreases, in every run."""
        perf_judge("loss_decreases")

    def test_losses(self, perf_judge: Judge) -> None:
        """The runs have the same losses, and those of the stored curve."""
        perf_judge("losses")

    def test_counters(self, perf_judge: Judge) -> None:
        """The runs do the same work in a step, and the stored work."""
        perf_judge("counters")

    @pytest.mark.benchmark(timer=recorded_clock, group="training step")
    def test_rate(
        self, perf_judge: Judge, perf_bench: Bench, perf_measurement: Measurement, benchmark: BenchmarkFixture
    ) -> None:
        """Samples/sec are those of the baseline."""

        def step() -> None:
            global _now_s
            _now_s += next(remaining, 0.0)

        times = [seconds for run in perf_measurement.runs for seconds in run.timed_step_s]
        remaining = iter(times)
        benchmark.pedantic(step, rounds=len(times))  # type: ignore[no-untyped-call]  # pytest-benchmark: unannotated
        benchmark.extra_info["workload"] = perf_bench.target.id
        perf_judge("rate")

    def test_scaling(self, perf_judge: Judge) -> None:
        """Samples/sec beside those of the other batch sizes are as in the baseline."""
        perf_judge("scaling")
