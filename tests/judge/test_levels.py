"""Effects estimated from starts and their pairs, against data whose truth is known and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as reference

from perf.judge.stats import OUTLIER, POWER, estimate
from perf.records.sessions import FEWEST_STARTS, pairs_per_start
from tests.judge.duet_noise import synthetic

LEVEL = 0.0075

effects = st.lists(
    st.lists(st.integers(-1000, 1000).map(lambda n: n / 1e4), min_size=3, max_size=3), min_size=2, max_size=12
)


@given(effects)
def test_the_interval_and_the_p_value_are_those_of_a_t_test_of_the_means_of_starts(found: list[list[float]]) -> None:
    """As scipy has it, for pairs of which none lies so far off that it is drawn in."""
    values = np.array(found)
    deviation = 1.4826 * np.median(np.abs(values - np.median(values)))
    assume(np.abs(values - np.median(values)).max() <= OUTLIER * deviation and values.mean(axis=1).std() > 1e-9)
    effect = estimate(found, level=LEVEL, elapsed_s=1.0)
    expected = reference.ttest_1samp(values.mean(axis=1), 0.0)
    interval = expected.confidence_interval(0.95)
    assert effect.p_value == pytest.approx(float(expected.pvalue), abs=1e-9)
    assert np.log1p([effect.low, effect.high]) == pytest.approx([interval.low, interval.high], abs=1e-9)
    assert (effect.num_starts, effect.num_runs) == (len(found), 3 * len(found))
    wide = expected.confidence_interval(1 - LEVEL)
    assume(abs(expected.pvalue - LEVEL) > 1e-9)
    assert effect.is_significant == (wide.low > 0 or wide.high < 0)


def test_more_pairs_of_the_same_starts_do_not_make_an_effect_surer() -> None:
    """Pairs of one start share its error: a hundred alike pairs in four starts are four values."""
    means = [0.01, -0.01, 0.02, -0.005]
    few, many = (estimate([[mean] * number for mean in means], level=LEVEL, elapsed_s=1.0) for number in (1, 100))
    assert few.standard_error == pytest.approx(many.standard_error)
    assert few.p_value == pytest.approx(many.p_value)


def test_one_start_has_no_interval() -> None:
    """Its pairs have an estimate, and nothing can be said of how sure it is."""
    effect = estimate([[-0.02, -0.03]], level=LEVEL, elapsed_s=9.0)
    assert np.log1p(effect.effect_size) == pytest.approx(-0.025)
    assert (effect.low, effect.high, effect.p_value) == (-1.0, np.inf, 1.0)
    assert effect.minimal_detectable_effect == 1.0
    assert effect.budget_for(0.02, level=LEVEL) == np.inf


def test_starts_too_few_for_a_verdict_could_show_nothing() -> None:
    """However alike they are; one more shows a small effect."""
    starts = [[-0.02, -0.021], [-0.02, -0.019], [-0.021, -0.02], [-0.019, -0.02]]
    three, four = (estimate(starts[:number], level=LEVEL, elapsed_s=1.0) for number in (3, 4))
    assert three.minimal_detectable_effect == 1.0
    assert 0.0 < four.minimal_detectable_effect < 0.01


@pytest.mark.parametrize("starts", [[], [[]], [[0.1], []]])
def test_no_pairs_are_refused(starts: list[list[float]]) -> None:
    """So is a start without any."""
    with pytest.raises(AssertionError):
        estimate(starts, level=LEVEL, elapsed_s=1.0)


def test_one_disturbed_pair_moves_the_estimate_by_less_than_a_mean() -> None:
    """A pair 30 % off, one of thirty, counts as one `OUTLIER` standard deviations off."""
    rng = np.random.default_rng(5)
    starts = [[float(value) for value in 0.005 * rng.normal(size=3)] for _ in range(10)]
    disturbed = [[0.3, *starts[0][1:]], *starts[1:]]
    quiet, moved = (estimate(found, level=LEVEL, elapsed_s=1.0).effect_size for found in (starts, disturbed))
    assert abs(moved - quiet) < OUTLIER * 0.006 / 30 < 0.3 / 30


@pytest.mark.parametrize("num_starts", [4, 10, 20])
def test_the_detectable_effect_is_found_as_often_as_it_says(num_starts: int) -> None:
    """A slowdown as large as the median of it is excluded from no effect about 80 % of the time."""
    rng = np.random.default_rng(4)

    def found(effect: float) -> tuple[float, bool]:
        draw = synthetic(rng, start_sd=0.005, effect=effect)
        one = estimate([draw(3) for _ in range(num_starts)], level=LEVEL, elapsed_s=1.0)
        return one.minimal_detectable_effect, one.is_significant and one.effect_size < 0

    detectable = float(np.median([found(0.0)[0] for _ in range(800)]))
    assert np.mean([found(float(np.log1p(-detectable)))[1] for _ in range(1000)]) == pytest.approx(POWER, abs=0.05)


def test_a_forecast_budget_shows_the_threshold() -> None:
    """Starts of the same spread, as many as the budget has time for, show what was asked."""
    rng = np.random.default_rng(6)
    draw = synthetic(rng, start_sd=0.005)
    starts = [draw(3) for _ in range(40)]
    ten = estimate(starts[:10], level=LEVEL, elapsed_s=100.0)
    needed = ten.budget_for(0.02, level=LEVEL)
    assert needed < 400
    enough = estimate(starts[: round(needed / 10)], level=LEVEL, elapsed_s=needed)
    assert enough.minimal_detectable_effect == pytest.approx(0.02, rel=0.4)
    assert ten.budget_for(0.5, level=LEVEL) == FEWEST_STARTS * 10.0


@given(st.floats(0.1, 60), st.floats(0.1, 60), st.floats(1, 1000))
def test_the_number_of_pairs_leaves_room_for_enough_starts(start_s: float, round_s: float, budget_s: float) -> None:
    """More where starts are dear; never so many that the fewest starts would not fit, if one pair each does."""
    number = pairs_per_start(start_s=start_s, round_s=round_s, budget_s=budget_s)
    assert number >= 1
    assert number == 1 or FEWEST_STARTS * (start_s + number * round_s) <= budget_s * (1 + 1e-9)
    assert pairs_per_start(start_s=2 * start_s, round_s=round_s, budget_s=1e9) >= number


def test_the_number_of_pairs_is_the_best_one() -> None:
    """With costs of 2.0 and 1.2 s, three or four pairs show the smallest effect.

    Twice as many or half show a larger one.
    """
    number = pairs_per_start(start_s=2.0, round_s=1.2, budget_s=1e9)

    def variance(pairs: int) -> float:
        return (1 / 6 + 1 / pairs) * (2.0 + 1.2 * pairs)  # of the mean of all starts that fit into a second

    assert number in (3, 4)
    assert variance(number) <= min(variance(number - 1), variance(number + 1))
