"""Warm-up is found where there is one, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from perf.records.sessions import find_warmup
from perf.robust import deviation

STEADY = [0.100, 0.102, 0.099, 0.101, 0.098, 0.103, 0.100, 0.099, 0.101, 0.100, 0.102, 0.098]


@pytest.mark.parametrize("slow", [[], [0.3], [0.3, 0.2], [0.5, 0.3, 0.15]])
def test_slow_steps_at_the_front_are_warmup(slow: list[float]) -> None:
    """As many steps are dropped as are slower than the later ones explain."""
    assert find_warmup(slow + STEADY) == len(slow)


def test_a_slow_step_later_on_is_no_warmup() -> None:
    """A disturbance after the first good step stays in the data."""
    assert find_warmup([0.3, *STEADY[:3], 0.5, *STEADY]) == 1


def test_a_slow_phase_is_no_warmup() -> None:
    """A machine that is slow for the whole first half was not warming up: one step goes, not half the run."""
    assert find_warmup([0.14] * 12 + STEADY) == 1


@given(st.lists(st.floats(0.001, 10.0), min_size=4, max_size=60))
def test_at_least_half_of_the_steps_stay(step_s: list[float]) -> None:
    """Whatever the times are, most of a run is used."""
    assert 0 <= find_warmup(step_s) <= len(step_s) // 2


def test_noise_alone_is_seldom_taken_for_warmup() -> None:
    """Of runs without any warm-up, few lose a step."""
    rng = np.random.default_rng(0)
    runs = np.exp(rng.normal(scale=0.03, size=(500, 20)))
    assert sum(find_warmup(run) > 0 for run in runs.tolist()) < 50


def test_the_deviation_is_scipys() -> None:
    """The median absolute deviation on the scale of a normal distribution, along the last axis."""
    values = np.random.default_rng(0).normal(size=(3, 7))
    expected = stats.median_abs_deviation(values, axis=-1, scale="normal")
    assert deviation(values) == pytest.approx(expected, rel=1e-5)
    assert deviation(values[0]) == pytest.approx(expected[0], rel=1e-5)
