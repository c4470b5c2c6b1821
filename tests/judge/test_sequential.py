"""Verdicts on duets whose truth is known: pairs with heavy tails, looks on the way, several batch sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from perf.judge.sequential import LOOKS, DuetJudgement, decide_pairs, estimate, judge, spent
from perf.judge.stats import POWER, hodges_lehmann, signed_rank_interval, signed_rank_p
from perf.judge.verdicts import Verdict
from perf.measure.pairs import Pair

PAIR_S = 1.1
SIZES = (512, 1024, 2048)
SPREAD = 0.02


def pair(size: int, ended_s: float, effect: float) -> Pair:
    """Return a pair without raw values."""
    return Pair(global_batch_size=size, start=0, ended_s=ended_s, effect=effect, baseline=(), candidate=())


def noisy_pairs(rng: np.random.Generator, effects: dict[int, float], wanted: set[int]) -> Iterator[Pair]:
    """Yield pairs in rounds, with noise as measured: a spread of 2 %, and one pair in twenty far off."""
    now = 4.0
    while wanted:
        for size in rng.permutation(sorted(wanted)).tolist():
            now += PAIR_S
            scale = SPREAD * (4 if rng.random() < 0.05 else 1)
            yield pair(size, now, effects[size] + scale * rng.normal())


def duet(
    rng: np.random.Generator, effects: dict[int, float], *, threshold: float = 0.02, budget_s: float = 180.0
) -> dict[int, DuetJudgement]:
    """Return the verdicts on synthetic sides; effects are differences of logarithms."""
    wanted = set(effects)
    pairs = noisy_pairs(rng, effects, wanted)
    return decide_pairs(pairs, list(effects), threshold=threshold, budget_s=budget_s, wanted=wanted)


@pytest.fixture(scope="module")
def a_a() -> list[dict[int, DuetJudgement]]:
    """A thousand duets of three batch sizes without any difference."""
    rng = np.random.default_rng(1)
    return [duet(rng, dict.fromkeys(SIZES, 0.0), threshold=0.005) for _ in range(1000)]


def test_without_a_difference_at_most_one_duet_in_a_hundred_finds_one(a_a: list[dict[int, DuetJudgement]]) -> None:
    """Four looks at three batch sizes together keep the error; the threshold is so small that it does not help."""
    false = sum(any(j.verdict in (Verdict.REGRESSED, Verdict.IMPROVED) for j in found.values()) for found in a_a)
    assert false <= 10


def test_the_shown_interval_covers_the_truth_at_every_look(a_a: list[dict[int, DuetJudgement]]) -> None:
    """Of the intervals that a duet ends with, 95 % or more hold no effect."""
    effects = [judgement.effect for found in a_a for judgement in found.values()]
    assert np.mean([effect.low <= 0 <= effect.high for effect in effects]) >= 0.95


def test_no_change_is_unchanged_and_a_change_as_large_as_the_threshold_is_found() -> None:
    """With a budget that shows the threshold, both are decided nearly always; neither is ever taken for the other."""
    rng = np.random.default_rng(2)
    verdicts = [duet(rng, {512: 0.0, 1024: np.log(0.98), 2048: np.log(1.02)}) for _ in range(100)]
    for size, right in ((512, Verdict.UNCHANGED), (1024, Verdict.REGRESSED), (2048, Verdict.IMPROVED)):
        found = [v[size].verdict for v in verdicts]
        assert found.count(right) >= 85
        assert found.count(right) + found.count(Verdict.INCONCLUSIVE) >= 98


def test_a_large_change_is_told_before_the_budget_is_spent() -> None:
    """A tenth is found at the first look that has enough pairs; its batch size is not measured any further."""
    found = duet(np.random.default_rng(3), {512: -0.1, 1024: 0.0, 2048: 0.0}, threshold=0.001)
    assert found[512].verdict is Verdict.REGRESSED
    assert found[512].look < LOOKS
    assert found[512].effect.num_runs < found[1024].effect.num_runs


def test_the_detectable_effect_is_found_as_often_as_it_says() -> None:
    """A slowdown as large as `reach` is excluded from no effect about 80 % of the time."""
    rng = np.random.default_rng(4)

    def one(effect: float) -> tuple[float, bool]:
        pairs = [pair(512, i, float(effect + SPREAD * rng.normal())) for i in range(40)]
        found = estimate(pairs, family_size=1, look=LOOKS)
        return found.reach, found.surely_high < 0

    reach = float(np.median([one(0.0)[0] for _ in range(300)]))
    assert np.mean([one(-reach)[1] for _ in range(600)]) == pytest.approx(POWER, abs=0.08)


def test_one_pair_far_off_moves_nothing() -> None:
    """A pair 30 % off, one of twenty, moves the estimate by less than the spread of a mean would."""
    rng = np.random.default_rng(5)
    values = [float(v) for v in 0.005 * rng.normal(size=20)]
    moved = hodges_lehmann([*values[1:], 0.3]) - hodges_lehmann(values)
    assert abs(moved) < 0.002 < np.mean([*values[1:], 0.3]) - np.mean(values)


def test_a_real_change_below_the_threshold_is_no_alarm() -> None:
    """It is UNCHANGED, and the reason says that it is real."""
    pairs = [pair(512, i, -0.005 + 1e-5 * i) for i in range(40)]
    found = judge(estimate(pairs, family_size=1, look=LOOKS), threshold=0.02, look=LOOKS)
    assert found.verdict is Verdict.UNCHANGED
    assert "is real, and smaller" in found.reason


def test_too_few_pairs_show_nothing() -> None:
    """Seven pairs reject nothing at 1 %, however alike: there is no interval, and the reason says what to do."""
    found = judge(estimate([pair(512, i, -0.5) for i in range(7)], family_size=1, look=LOOKS), threshold=0.02, look=4)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.effect.reach == np.inf
    assert "7 pairs are too few" in found.reason
    assert "--budget" in found.reason


def test_an_inconclusive_duet_says_what_it_would_have_taken() -> None:
    """The budget it names decides the threshold: four times the time halves the reach."""
    rng = np.random.default_rng(6)
    pairs = [pair(512, 2.0 * i, float(0.05 * rng.normal())) for i in range(1, 21)]
    effect = estimate(pairs, family_size=1, look=LOOKS)
    assert effect.budget_for(effect.minimal_detectable_effect) == pytest.approx(40.0)
    assert judge(effect, threshold=0.02, look=LOOKS).reason.endswith(
        f"needs about {effect.budget_for(0.02):,.0f} s for each batch size"
    )


def test_no_budget_is_smaller_than_the_fewest_pairs_take() -> None:
    """Nine alike pairs exclude no effect at the last look of one batch size, eight do not; no forecast promises less."""
    nine = [pair(512, 2.0 * i, -0.5) for i in range(1, 10)]
    effect = estimate(nine, family_size=1, look=LOOKS)
    assert effect.fewest_runs == 9
    assert effect.surely_high < 0
    assert estimate(nine[:8], family_size=1, look=LOOKS).surely_high == np.inf
    assert effect.budget_for(0.9) == effect.elapsed_s == 18.0


def test_looks_share_the_error() -> None:
    """The shares of all looks are one together, and the last is the largest."""
    shares = [spent(look) for look in range(1, LOOKS + 1)]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares)


def test_looks_come_with_the_budget_and_end_with_it() -> None:
    """There are four, however many pairs there are; the last decides or gives up, and then nothing is wanted."""
    wanted = {512}
    pairs = (pair(512, time, 0.1 * (-1) ** time) for time in itertools.count(1))
    found = decide_pairs(
        itertools.takewhile(lambda _: bool(wanted), pairs), [512], threshold=0.02, budget_s=40, wanted=wanted
    )
    assert found[512].look == LOOKS
    assert found[512].effect.elapsed_s == 40
    assert not wanted


def test_a_pair_that_takes_longer_than_the_budget_is_the_last() -> None:
    """Looks that were jumped over are forgone, not made up for."""
    wanted = {512}
    found = decide_pairs([pair(512, 100.0, 0.0)], [512], threshold=0.02, budget_s=40, wanted=wanted)
    assert found[512].look == LOOKS
    assert not wanted


def test_no_batch_size_goes_without_a_pair() -> None:
    """A budget that is spent after the first pair is overdrawn until each has one."""
    wanted = set(SIZES)
    pairs = noisy_pairs(np.random.default_rng(7), dict.fromkeys(SIZES, 0.0), wanted)
    found = decide_pairs(pairs, SIZES, threshold=0.02, budget_s=1.0, wanted=wanted)
    assert [found[size].effect.num_runs for size in SIZES] == [1, 1, 1]


@pytest.mark.parametrize("look", [0, LOOKS + 1])
def test_a_look_that_does_not_exist_is_refused(look: int) -> None:
    """So are no pairs at all."""
    with pytest.raises(ValueError, match="at least one pair and a look"):
        estimate([pair(512, 1.0, 0.0)], family_size=1, look=look)
    with pytest.raises(ValueError, match="0 pairs"):
        estimate([], family_size=1, look=1)


values = st.lists(st.floats(-1, 1).map(lambda x: round(x, 6)), min_size=3, max_size=25, unique_by=abs)


@given(values.filter(lambda found: 0 not in found))
def test_the_p_value_is_that_of_the_exact_test(found: list[float]) -> None:
    """As scipy has it, for values without ties."""
    expected = reference.wilcoxon(found, method="exact").pvalue
    assert signed_rank_p(found) == pytest.approx(float(expected))


@given(values, st.floats(0.001, 0.2))
def test_the_interval_holds_what_the_test_does_not_reject(found: list[float], level: float) -> None:
    """Just inside its ends the p-value is above the level, just outside it is not."""
    low, high = signed_rank_interval(found, level)
    if not np.isfinite(low):
        assert 2 * 0.5 ** len(found) > level
        return
    nudge = 1e-9
    assert signed_rank_p(found, low - nudge) <= level
    assert signed_rank_p(found, high + nudge) <= level
    if low < high:
        assert signed_rank_p(found, low + nudge) > level
        assert signed_rank_p(found, high - nudge) > level
