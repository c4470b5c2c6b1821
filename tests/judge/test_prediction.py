"""A batch size that was not run: predicted from two that were, with an interval that holds what is true."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from perf.judge.prediction import predict, window_step_s
from perf.records.baselines import PublishedLine, load_published

BASELINES = Path(__file__).parents[2] / "baselines"


def lines(size: int, window_s: list[float]) -> list[PublishedLine]:
    """Return the log lines of a run whose log windows of 100 steps took these times."""
    ends = np.cumsum(window_s)
    return [
        PublishedLine(
            global_batch_size=size,
            global_step=100 * number,
            loss=9.0,
            global_rate_samples_per_sec=100 * number * size / end,
        )
        for number, end in enumerate(ends, start=1)
    ]


def test_step_times_are_those_of_the_windows_but_the_first() -> None:
    """They follow from step and GlobalRate."""
    assert window_step_s(lines(512, [5.0, 10.0, 20.0])) == pytest.approx([0.1, 0.2])


def test_a_straight_line_is_followed_exactly() -> None:
    """Where a step takes 100 ms and 0.1 ms for each sample, 512 takes 151.2 ms."""
    windows = {1024: [0.2024 - 1e-9, 0.2024 + 1e-9], 2048: [0.3048 - 1e-9, 0.3048 + 1e-9]}
    found = predict(windows, 512)
    assert found.samples_per_sec == pytest.approx(512 / 0.1512)
    assert (found.fixed_s, found.per_sample_s) == (pytest.approx(0.1), pytest.approx(1e-4))
    assert found.low < found.samples_per_sec < found.high


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Nine windows of each of two batch sizes, independent normal noise: 95 % of 2000 within 3 standard errors."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(2000):
        windows = {size: list(0.1 + 1e-4 * size + rng.normal(scale=0.002, size=9)) for size in (1024, 2048)}
        found = predict(windows, 512)
        held += found.low <= 512 / 0.1512 <= found.high
    assert abs(held / 2000 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 2000)


def test_what_512_would_have_given_on_the_reference_machine() -> None:
    """About 3,120 samples/sec: fewer than at 1024, more than half of it."""
    windows = {run.global_batch_size: window_step_s(found) for run, found in load_published(BASELINES).items() if found}
    found = predict(windows, 512)
    assert 4861.66 / 2 < found.low < found.samples_per_sec < found.high < 4861.66
    assert found.samples_per_sec == pytest.approx(3122, abs=1)
