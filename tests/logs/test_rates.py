"""Rate and GlobalRate follow the published rules."""

from __future__ import annotations

import pytest

from perf.logs.rates import Mark, Rates
from tests.logs import published


@pytest.mark.parametrize("global_batch_size", [1024, 2048])
def test_published_rates_come_back(global_batch_size: int) -> None:
    """Fed the times that follow from the GlobalRate column, the tracker returns every published Rate within 0.02."""
    lines = published.log_lines(global_batch_size)
    assert len(lines) == 10
    rates = Rates.since(Mark(samples=0, time_s=0.0))
    for line in lines:
        samples = line.global_step * global_batch_size
        rates = rates.at(Mark(samples=samples, time_s=samples / line.global_rate))
        assert rates.rate == pytest.approx(line.rate, abs=0.02)
        assert rates.global_rate == pytest.approx(line.global_rate, abs=1e-6)


@pytest.mark.parametrize("global_batch_size", [1024, 2048])
def test_published_totals_come_back(global_batch_size: int) -> None:
    """The last GlobalRate is the processed samples over the seconds they took, within 0.01."""
    end = published.END_LINES[global_batch_size]
    assert end.samples / end.seconds == pytest.approx(published.log_lines(global_batch_size)[-1].global_rate, abs=0.01)


def test_the_first_rate_is_the_first_windows_and_later_ones_are_smoothed() -> None:
    """Worked by hand: windows of 10 and 20 samples/sec give 10, then 0.6 x 20 + 0.4 x 10 = 16."""
    first = Rates.since(Mark(samples=100, time_s=5.0)).at(Mark(samples=110, time_s=6.0))
    assert (first.rate, first.global_rate) == (10.0, 10.0)
    second = first.at(Mark(samples=130, time_s=7.0))
    assert second.rate == pytest.approx(16.0)
    assert second.global_rate == pytest.approx(15.0)
    assert first.rate == 10.0, "asking for the next rates must not change these"


def test_a_clock_that_stands_still_is_refused() -> None:
    """No rate is made up from a window without length."""
    rates = Rates.since(Mark(samples=0, time_s=1.0))
    with pytest.raises(ValueError, match=r"must advance.*1\.0 s, then 1\.0 s"):
        rates.at(Mark(samples=8, time_s=1.0))
