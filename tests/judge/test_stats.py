"""Statistics on synthetic sessions whose truth is known; tests/judge/noise.py says what the noise is like."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from perf.judge.stats import (
    POWER,
    Effect,
    FloatArray,
    batch_noise,
    compare_rates,
    falls,
    holm,
    run_rate,
    scaling_contrasts,
)
from perf.judge.verdicts import Judgement, Verdict, decide, judge_rates
from perf.records.baselines import Baseline
from tests.judge.noise import PHASES, SIZES, session, step_times
from tests.judge.test_verdicts import as_baseline

THRESHOLD = 0.05
NUM_FAMILIES = 1000


class Repeats(NamedTuple):
    """What came of many A/A sessions: by family and batch size."""

    rates: list[dict[int, Judgement]]
    scaling: list[dict[int, Judgement]]

    def effects(self, metric: str) -> list[Effect]:
        """Return the effect of every comparison."""
        return [judgement.effect for family in getattr(self, metric) for judgement in family.values()]


def repeat(phases: str, num_families: int, *, seed: int) -> Repeats:
    """Judge sessions against baselines that differ from them in noise alone."""
    rng = np.random.default_rng(seed)
    rates, scaling = [], []
    for _ in range(num_families):
        baseline: Baseline = as_baseline(session(step_times(rng, phases=phases)))
        candidate = session(step_times(rng, phases=phases))
        rates.append(judge_rates(candidate, baseline, threshold=THRESHOLD))
        scaling.append(judge_rates(candidate, baseline, threshold=THRESHOLD, is_scaling=True))
    return Repeats(rates, scaling)


@pytest.fixture(scope="module")
def a_a() -> Repeats:
    """A thousand sessions that differ from their baselines in noise alone."""
    return repeat("anywhere", NUM_FAMILIES, seed=1)


def regressed(family: dict[int, Judgement]) -> bool:
    """Return whether any batch size of a family is called slower."""
    return any(judgement.verdict is Verdict.REGRESSED for judgement in family.values())


def test_without_a_difference_at_most_one_family_in_a_hundred_regresses(a_a: Repeats) -> None:
    """False alarms over 1000 A/A families stay within 1 %, for rates and for scaling."""
    assert sum(map(regressed, a_a.rates)) <= NUM_FAMILIES * 0.01
    assert sum(map(regressed, a_a.scaling)) <= NUM_FAMILIES * 0.01


@pytest.mark.parametrize("metric", ["rates", "scaling"])
def test_the_interval_covers_the_truth_as_often_as_it_says(a_a: Repeats, metric: str) -> None:
    """The 95 % interval holds the true effect, none, in 93 to 97 % of the comparisons."""
    covered = [effect.low <= 0 <= effect.high for effect in a_a.effects(metric)]
    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_minimal_detectable_effect_is_what_can_be_detected(a_a: Repeats) -> None:
    """A slowdown of the printed size is found POWER of the time.

    The true such size is within 20 % of the printed one.
    """
    printed = float(np.median([effect.minimal_detectable_effect for effect in a_a.effects("rates")]))
    sizes = np.array([0.8, 0.9, 1.0, 1.1, 1.2]) * printed
    rng = np.random.default_rng(2)
    pairs = [(_rates(step_times(rng)), _rates(step_times(rng))) for _ in range(400)]
    found = [np.mean([_is_found(size, *pair) for pair in pairs]) for size in sizes]
    assert found == sorted(found)
    assert found[0] < POWER < found[-1]
    true = float(np.interp(POWER, found, sizes))
    assert abs(true / printed - 1) <= 0.2


def _rates(times: FloatArray) -> list[list[float]]:
    return [[run_rate(steps, size) for steps in runs] for size, runs in zip(SIZES, times, strict=True)]


def _is_found(slowdown: float, candidate: list[list[float]], baseline: list[list[float]]) -> bool:
    """Return whether a fall of the first batch size's rate by `slowdown` is called one, within its family of three."""
    slower = [[rate * (1 - slowdown) for rate in candidate[0]], *candidate[1:]]
    effects = [compare_rates(*sides, family_size=3) for sides in zip(slower, baseline, strict=True)]
    p_in_family = holm([effect.p_value for effect in effects])[0]
    return decide(effects[0], p_in_family=p_in_family, threshold=THRESHOLD) is Verdict.REGRESSED


@pytest.mark.parametrize("phases", PHASES[1:])
def test_other_phases_make_no_more_false_alarms(phases: str) -> None:
    """Where phases are only fast or slow, intervals cover at least as much, and false alarms stay within 1 %."""
    repeats = repeat(phases, 300, seed=3)
    assert sum(map(regressed, repeats.rates)) <= 3
    assert np.mean([effect.low <= 0 <= effect.high for effect in repeats.effects("rates")]) >= 0.93


def test_the_comparison_is_welchs() -> None:
    """But for the factor on the error, estimate, freedom and p-value are those of scipy's Welch test on logarithms."""
    candidate, baseline = [90.0, 100.0, 95.0, 88.0], [104.0, 99.0, 101.0]
    welch = reference.ttest_ind(np.log(candidate), np.log(baseline), equal_var=False)
    effect = compare_rates(candidate, baseline, family_size=1)
    assert effect.effect_size == pytest.approx(np.expm1(np.mean(np.log(candidate)) - np.mean(np.log(baseline))))
    t = abs(welch.statistic) / 1.15
    assert effect.p_value == pytest.approx(2 * reference.t.sf(t, welch.df))
    interval = welch.confidence_interval(0.95)
    assert np.log1p(effect.high) - np.log1p(effect.low) == pytest.approx(1.15 * (interval.high - interval.low))


rates = st.lists(st.floats(1.0, 1e6), min_size=2, max_size=8)


@given(rates, rates, st.floats(0.01, 100.0))
def test_a_comparison_does_not_depend_on_the_unit(candidate: list[float], baseline: list[float], unit: float) -> None:
    """Rates in other units give the same effect."""
    here = compare_rates(candidate, baseline, family_size=3)
    there = compare_rates([unit * r for r in candidate], [unit * r for r in baseline], family_size=3)
    assert there.effect_size == pytest.approx(here.effect_size, rel=1e-6, abs=1e-9)


@given(rates, rates)
def test_swapping_the_sides_inverts_the_effect(candidate: list[float], baseline: list[float]) -> None:
    """Candidate over baseline and baseline over candidate are each other's inverse, with the same p-value."""
    here = compare_rates(candidate, baseline, family_size=3)
    there = compare_rates(baseline, candidate, family_size=3)
    assert (1 + here.effect_size) * (1 + there.effect_size) == pytest.approx(1)
    assert there.p_value == pytest.approx(here.p_value)
    assert here.low <= here.effect_size <= here.high


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
def test_holm(p_values: list[float]) -> None:
    """Corrected p-values keep the order, are never smaller, and reject what Holm's steps reject."""
    corrected = holm(p_values)
    assert all(after >= before for before, after in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values)
    assert all(corrected[a] <= corrected[b] for a, b in pairwise(order))
    rejected = set()
    for rank, index in enumerate(order):
        if p_values[index] > 0.05 / (len(p_values) - rank):
            break
        rejected.add(index)
    near = {i for i, p in enumerate(corrected) if abs(p - 0.05) < 1e-9}
    assert {i for i, p in enumerate(corrected) if p <= 0.05} - near == rejected - near


def test_holm_on_a_known_example() -> None:
    """Three p-values by hand: the smallest counts three times, the next twice, none less than the one before."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_scaling_cancels_what_all_batch_sizes_share() -> None:
    """A round twice as slow for everyone changes no contrast; one batch size alone does."""
    rng = np.random.default_rng(0)
    logs = np.log(rng.uniform(5000, 7000, size=(3, 4)))
    shared = logs + np.log([1.0, 0.5, 1.0, 2.0])
    assert scaling_contrasts(shared) == pytest.approx(scaling_contrasts(logs))
    alone = logs + np.log([[0.5], [1.0], [1.0]])
    assert (scaling_contrasts(alone) - scaling_contrasts(logs))[0] == pytest.approx(np.log(0.5))


def test_run_rate_is_the_lower_quartile() -> None:
    """A run is represented by the time that a quarter of its steps beat."""
    assert run_rate([0.1, 0.2, 0.3, 0.4, 0.5], 512) == pytest.approx(512 / 0.2)


def test_a_falling_loss_is_told_from_noise() -> None:
    """A falling loss has a small p-value; noise and a rising loss do not."""
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.03, size=20)
    assert falls((7.6 - 0.03 * np.arange(20) + noise).tolist()) < 0.001
    assert falls((7.6 + noise).tolist()) > 0.01
    assert falls((7.6 + 0.03 * np.arange(20) + noise).tolist()) > 0.99


def test_batch_noise_sees_through_a_curve() -> None:
    """The noise of single steps is recovered from a curve that falls and bends."""
    rng = np.random.default_rng(0)
    steps = np.arange(200)
    curve = 7.6 * np.exp(-steps / 100) + rng.normal(scale=0.03, size=200)
    assert batch_noise(curve.tolist()) == pytest.approx(0.03, rel=0.15)
