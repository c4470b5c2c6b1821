"""Changes of a history: found near their place, not found in noise, and the same answer each time."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from perf.judge.changes import NEAR, PERMUTATIONS, bad_streak, exact_changes, find_changes, pooled
from perf.judge.stats import FAMILY_ERROR


def noise(seed: int, nights: int = 60) -> np.ndarray:
    """Return logarithms of rates without a change, with a spread of 2 %."""
    return np.random.default_rng(seed).normal(scale=0.02, size=nights)


def stepping(seed: int, at: int, nights: int = 60, step: float = 0.03) -> list[float]:
    """Return rates that are lower from night `at` on."""
    logs = noise(seed, nights)
    logs[at:] += math.log1p(-step)
    return np.exp(logs).tolist()


@pytest.mark.parametrize(("at", "fewest"), [(15, 16), (30, 18), (45, 16)])
def test_a_step_is_found_near_its_place(at: int, fewest: int) -> None:
    """A step of 3 % in noise of 2 %, in nearly all of 20 histories."""
    found = [find_changes({"rate": stepping(seed, at)}) for seed in range(20)]
    near = [change for one in found for change in one if abs(change.index - at) <= NEAR]
    assert len(near) >= fewest
    assert np.mean([change.effect_size for change in near]) == pytest.approx(-0.03, abs=0.005)
    assert all(change.earliest <= change.index <= change.latest for change in near)
    assert np.mean([change.earliest <= at <= change.latest for change in near]) >= 0.8


def test_batch_sizes_together_show_what_one_hides() -> None:
    """Five nights after a step: one series of few shows it, the mean of three of nearly all."""
    alone = [find_changes({"rate": stepping(seed, 55)}) for seed in range(12)]
    together = [find_changes({"rate": pooled([stepping(3 * seed + i, 55) for i in range(3)])}) for seed in range(12)]
    assert sum(map(bool, together)) >= 10 > sum(map(bool, alone))


def test_noise_has_few_changes() -> None:
    """At most one in 1000 nights: six in 100 histories of 60."""
    assert sum(len(find_changes({"rate": np.exp(noise(seed)).tolist()})) for seed in range(100)) <= 6


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_one_wild_night_is_no_change(factor: float) -> None:
    """Wherever it is, at the ends too, in nearly all histories; and it does not hide a change."""
    wrong = found = 0
    places = [0, 1, 2, 20, 57, 58, 59]
    for seed, place in enumerate(10 * places):
        rates = np.exp(noise(seed))
        rates[place] *= factor
        wrong += bool(find_changes({"rate": rates.tolist()}))
        rates[30:] *= 0.9
        found += any(abs(change.index - 30) <= 1 for change in find_changes({"rate": rates.tolist()}))
    assert wrong <= 4
    assert found >= 68


def test_a_slow_phase_has_two_ends() -> None:
    """A slowdown that went away, which no single split of the history shows."""
    rates = np.exp(noise(5))
    rates[25:35] *= 0.9
    down, up = find_changes({"rate": rates.tolist()})
    assert (down.index, up.index) == (25, 35)
    assert down.effect_size == pytest.approx(-0.1, abs=0.02)
    assert up.effect_size == pytest.approx(1 / 0.9 - 1, abs=0.02)


def test_the_same_history_has_the_same_answer() -> None:
    """Whatever else is asked with it, as long as the correction allows; and the generator of others is left alone."""
    rates = stepping(1, 30, step=0.1)
    np.random.seed(1)  # noqa: NPY002  # it is this generator that must be left alone
    before = np.random.get_state()[1].tolist()  # noqa: NPY002  # the same
    (alone,) = find_changes({"rate": rates})
    first, second = find_changes({"other": np.exp(noise(2)).tolist(), "rate": rates, "again": rates})
    assert find_changes({"rate": rates}) == [alone]
    assert (first.index, first.effect_size) == (second.index, second.effect_size) == (alone.index, alone.effect_size)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002  # the same


def test_p_values_are_corrected_for_all_metrics() -> None:
    """By Holm: the smallest of three is multiplied by three; and what one metric shows alone, ten may not."""
    rates = stepping(1, 30, step=0.1)
    (change,) = find_changes({"rate": rates})
    assert change.p_value == pytest.approx(1 / (PERMUTATIONS + 1))
    quiet = {str(seed): np.exp(noise(seed)).tolist() for seed in (2, 3)}
    assert find_changes({**quiet, "rate": rates})[0].p_value == pytest.approx(3 * change.p_value)
    weak = next(r for r in (stepping(s, 30, step=0.02) for s in range(99)) if _p(r) > FAMILY_ERROR / 10)
    assert find_changes({"rate": weak})
    assert not find_changes({"rate": weak} | {str(seed): [1.0] * 60 for seed in range(9)})


def _p(rates: Sequence[float]) -> float:
    return max((change.p_value for change in find_changes({"rate": rates})), default=0.0)


@pytest.mark.parametrize("nights", range(9))
def test_a_short_history_has_no_changes(nights: int) -> None:
    """Up to eight nights no order is rare enough: nothing is found, and nothing fails, nor where all are equal."""
    assert find_changes({"rate": stepping(1, nights // 2, nights, step=0.5)}) == []
    assert find_changes({"rate": [2.0] * nights}) == []


def test_ten_nights_can_show_a_change() -> None:
    """So the test above can fail."""
    (change,) = find_changes({"rate": stepping(1, 5, 10, step=0.5)})
    assert change.index == 5


def test_made_up_rates_without_noise_have_changes() -> None:
    """A scale of zero is no obstacle."""
    (change,) = find_changes({"rate": [2.0] * 20 + [1.0] * 20})
    assert (change.index, change.effect_size) == (20, pytest.approx(-0.5))


def test_exact_numbers_change_at_once() -> None:
    """One night is enough; after zero the size is infinite; a negative one becomes larger, and not smaller."""
    found = exact_changes("ops", [0, 0, 2, 2, 3, 3])
    assert [(change.index, change.effect_size) for change in found] == [(2, math.inf), (4, 0.5)]
    assert exact_changes("loss", [-2.0, -1.0])[0].effect_size == 0.5
    assert exact_changes("loss", [0, -1])[0].effect_size == -math.inf
    assert exact_changes("flops", [5]) == exact_changes("flops", []) == exact_changes("flops", [5] * 9) == []


@pytest.mark.parametrize(
    ("verdicts", "streak"),
    [
        ([], None),
        (["UNCHANGED"], None),
        (["INCONCLUSIVE", "NO_BASELINE", ""], None),
        (["REGRESSED"], (-1, 0)),
        (["REGRESSED", "IMPROVED"], None),
        (["REGRESSED", "UNCHANGED", "FAILED"], (1, 2)),
        (["UNCHANGED", "INCONCLUSIVE", "REGRESSED", "LOSSES_DIFFER", "FAILED"], (0, 2)),
        (["UNCHANGED", "REGRESSED", "INCONCLUSIVE", "REGRESSED", "NOT_COMPARABLE"], (0, 1)),
    ],
)
def test_a_streak_of_bad_sessions_begins_after_a_good_one(verdicts: list[str], streak: tuple[int, int] | None) -> None:
    """Good sessions end it, those that decided nothing neither begin nor end it."""
    assert bad_streak(verdicts) == streak
