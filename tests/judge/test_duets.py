"""Verdicts on duets whose truth is known: synthetic and recorded starts, two looks, several batch sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from perf.judge.duets import INTERIM_LOOK, LAST_SHARE, Decisions, DuetJudgement, spent
from perf.judge.verdicts import Verdict
from perf.records.sessions import FEWEST_STARTS, Pair
from tests.judge.duet_noise import RECORDED, Draw, duet, recorded_starts, resampled, synthetic

SIZES = (512, 1024, 2048)
CHANGED = (Verdict.REGRESSED, Verdict.IMPROVED)
TINY = 1e-4
"""A threshold so small that UNCHANGED is practically never the verdict."""


def sources(rng: np.random.Generator, *, effect: float = 0.0) -> list[Draw]:
    """Return where starts come from: synthetic ones of several spreads, and those of both recorded machines."""
    made = [synthetic(rng, start_sd=sd, effect=effect) for sd in (0.0, 0.007, 0.012)]
    found = [resampled(rng, recorded_starts(path), whole=False, effect=effect) for path in RECORDED.values()]
    return made + found


@pytest.fixture(scope="module")
def a_a() -> list[DuetJudgement]:
    """Duets without any difference, of several budgets and sources, with a threshold that helps nobody."""
    rng = np.random.default_rng(1)
    cases = itertools.product(sources(rng), (20.0, 60.0))
    return [duet({512: draw}, budget_s=s, threshold=TINY)[512] for draw, s in cases for _ in range(150)]


def test_without_a_difference_at_most_one_duet_in_a_hundred_finds_one(a_a: list[DuetJudgement]) -> None:
    """Both looks together keep the error; the tolerance is three standard errors of so many duets."""
    false = np.mean([judgement.verdict in CHANGED for judgement in a_a])
    assert false <= 0.01 + 3 * np.sqrt(0.01 / len(a_a))


def test_the_shown_interval_covers_the_truth(a_a: list[DuetJudgement]) -> None:
    """Between 93 and 97 % of the final intervals contain zero, the true effect."""
    covered = np.mean([judgement.effect.low <= 0 <= judgement.effect.high for judgement in a_a])
    assert 0.93 <= covered <= 0.97


def test_a_true_change_as_large_as_the_threshold_is_seldom_called_unchanged() -> None:
    """At most one in twenty; with a budget of 60 s on the synthetic machine it is nearly always found."""
    rng = np.random.default_rng(2)
    for number, draw in enumerate(sources(rng, effect=float(np.log(0.98)))):
        found = [duet({512: draw}, budget_s=60.0)[512].verdict for _ in range(100)]
        assert found.count(Verdict.UNCHANGED) <= 12  # of 100 with probability 5 %: more is 1 in 1000
        assert found.count(Verdict.IMPROVED) == 0
        assert number or found.count(Verdict.REGRESSED) >= 90


def test_several_batch_sizes_share_the_error() -> None:
    """Three together find a difference that is not there in at most 1 % of duets; each is decided by itself."""
    rng = np.random.default_rng(3)
    draw = synthetic(rng, start_sd=0.005)
    found = [duet(dict.fromkeys(SIZES, draw), budget_s=60.0, threshold=TINY) for _ in range(300)]
    assert sum(any(one.verdict in CHANGED for one in judgements.values()) for judgements in found) <= 9
    mixed = duet({512: synthetic(rng, start_sd=0.005, effect=-0.1), 1024: draw}, budget_s=60.0)
    assert {size: one.verdict for size, one in mixed.items()} == {512: Verdict.REGRESSED, 1024: Verdict.UNCHANGED}


def pairs(start: int, *effects: float, sizes: tuple[int, ...] = (512,)) -> list[Pair]:
    """Return the pairs of one start."""
    return [
        Pair(global_batch_size=size, start=start, ended_s=0.0, effect=effect, baseline=(), candidate=())
        for effect in effects
        for size in sizes
    ]


def test_a_large_change_is_told_before_the_budget_is_spent() -> None:
    """A tenth is found at the first look; its batch size is not measured any further."""
    rng = np.random.default_rng(4)
    decisions = Decisions((512, 1024), threshold=TINY, budget_s=100.0)
    for number in range(1, 6):
        assert decisions.undecided == [512, 1024]
        decisions.add(
            pairs(number, *(-0.1 + 0.003 * rng.normal(size=3)), sizes=(512,))
            + pairs(number, *(0.003 * rng.normal(size=3)), sizes=(1024,)),
            ended_s=10.0 * number,
        )
    assert decisions.undecided == [1024]
    assert decisions.judgements[512].verdict is Verdict.REGRESSED
    assert decisions.judgements[512].effect.level == pytest.approx(0.01 * spent(INTERIM_LOOK) / 2)
    assert decisions.judgements[1024].verdict is Verdict.INCONCLUSIVE
    for number in range(6, 11):
        decisions.add(pairs(number, *(0.003 * rng.normal(size=3)), sizes=(1024,)), ended_s=10.0 * number)
    assert decisions.judgements[1024].effect.level == pytest.approx(0.01 * LAST_SHARE / 2)


def test_looks_share_the_error() -> None:
    """What both looks may spend is one together, and the last has most of it."""
    assert spent(INTERIM_LOOK) + LAST_SHARE == spent(1.0) == 1.0
    assert spent(INTERIM_LOOK) < LAST_SHARE


def test_a_look_at_few_starts_is_left_out_and_its_share_goes_to_the_last() -> None:
    """Three starts at half of the budget decide nothing, however large the effect; the last look errs in 1 % then."""
    decisions = Decisions((512,), threshold=0.02, budget_s=50.0)
    for number in range(1, FEWEST_STARTS):
        decisions.add(pairs(number, -0.5, -0.5001 - number / 1e4), ended_s=13.0 * number)
        assert decisions.undecided == [512]
    decisions.add(pairs(4, -0.5, -0.5), ended_s=52.0)
    assert decisions.undecided == []
    assert decisions.judgements[512].verdict is Verdict.REGRESSED
    assert decisions.judgements[512].effect.level == pytest.approx(0.01)


def test_the_last_look_comes_when_another_start_would_end_late() -> None:
    """By more than half of it; a start that takes longer than the budget is the last, and decides nothing."""
    decisions = Decisions((512,), threshold=0.02, budget_s=60.0)
    for number in range(1, 7):
        assert decisions.undecided == [512]
        decisions.add(pairs(number, 0.1 * (-1) ** number), ended_s=10.4 * number)
    assert decisions.undecided == []
    long = Decisions((512,), threshold=0.02, budget_s=20.0)
    long.add(pairs(0, -0.5, -0.5), ended_s=100.0)
    assert long.undecided == []
    assert long.judgements[512].verdict is Verdict.INCONCLUSIVE
    assert long.judgements[512].advice("--budget {:.0f}s") == (
        "only 1 of the 4 starts that a verdict needs; use about --budget 400s"
    )


def test_what_is_known_of_a_duet_that_is_stopped() -> None:
    """An estimate with its interval from the whole starts, INCONCLUSIVE; nothing of a batch size without any."""
    decisions = Decisions((512, 1024), threshold=0.02, budget_s=100.0)
    assert decisions.judgements == {}
    for number in range(2):
        decisions.add(pairs(number, -0.05 + number / 1e3), ended_s=10.0 * number)
    found = decisions.judgements
    assert list(found) == [512]
    assert found[512].verdict is Verdict.INCONCLUSIVE
    assert found[512].reason == "stopped before it was decided"
    assert found[512].effect.low < found[512].effect.effect_size < found[512].effect.high


def test_a_real_change_below_the_threshold_is_no_alarm() -> None:
    """It is UNCHANGED, and the reason says that it is real."""
    decisions = Decisions((512,), threshold=0.02, budget_s=10.0)
    for number in range(10):
        decisions.add(pairs(number, -0.005 + 1e-5 * number), ended_s=number + 1.0)
    found = decisions.judgements[512]
    assert found.verdict is Verdict.UNCHANGED
    assert "is significant, but smaller than 2.0%" in found.reason


def test_an_inconclusive_duet_says_what_it_would_have_taken() -> None:
    """The slowdown that would have shown, and the budget for the threshold, as an option."""
    rng = np.random.default_rng(6)
    decisions = Decisions((512,), threshold=0.02, budget_s=60.0)
    for number in range(1, 7):
        decisions.add(pairs(number, *(0.05 * rng.normal(size=3))), ended_s=10.0 * number)
    found = decisions.judgements[512]
    needed = np.ceil(found.effect.budget_for(0.02, level=0.01 * LAST_SHARE))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.advice("--budget {:.0f}s") == (
        f"the pairs vary too much: only slowdowns above {found.effect.minimal_detectable_effect:.1%} would have shown; "
        f"use about --budget {needed:.0f}s"
    )
    assert needed > 60
