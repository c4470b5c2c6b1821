"""What a bisection looks for, and when a commit is good or bad."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from perf.judge.bisect import BAD, GOOD, LOSSES, SKIP, TIME, Target, find_target
from perf.records.wire import SideWork
from tests.judge.duet_noise import Draw, synthetic
from tests.report.test_duet import EXTRA, SLOWER, WORK, duet

OTHER = dataclasses.replace(WORK, losses=tuple(loss + 0.01 for loss in WORK.losses))
SLOW = math.log(0.95)
TIMES = Target(name=TIME, size=512, ends=(WORK, EXTRA), effect=SLOW)


def decided(target: Target, draw: Draw, *, error: float, most_starts: int = 30) -> str:
    """Return what becomes of a commit that is asked about after every start."""
    starts: list[list[float]] = []
    for _ in range(most_starts):
        starts.append(draw(3))
        verdict, _ = target.by_times(starts, error=error)
        if verdict != SKIP:
            return verdict
    return SKIP


@pytest.mark.parametrize("target", [TIMES, dataclasses.replace(TIMES, effect=-SLOW)], ids=["slower", "faster"])
def test_a_commit_is_on_the_side_of_the_end_that_it_is_like(target: Target) -> None:
    """With the measured noise, and whether the bad end is slower or faster."""
    rng = np.random.default_rng(0)
    for effect, verdict in ((0.0, GOOD), (target.effect, BAD)):
        draw = synthetic(rng, start_sd=0.004, effect=effect)
        assert [decided(target, draw, error=0.002) for _ in range(20)] == [verdict] * 20


def test_a_commit_at_the_midpoint_is_decided_as_seldom_as_is_allowed() -> None:
    """However many starts are looked at; otherwise a look after every start would find something sooner or later."""
    draw = synthetic(np.random.default_rng(0), start_sd=0.004, effect=SLOW / 2)
    found = [decided(TIMES, draw, error=0.1, most_starts=40) for _ in range(100)]
    assert found.count(SKIP) >= 90


def test_a_few_starts_decide_nothing() -> None:
    """Not even equal ones."""
    assert TIMES.by_times([[0.0, 0.0]] * 3, error=0.1)[0] == SKIP
    assert TIMES.by_times([[0.0, 0.0]] * 4, error=0.1)[0] == GOOD


@pytest.mark.parametrize(
    ("commit", "verdict"), [(WORK, GOOD), (EXTRA, BAD), (OTHER, SKIP)], ids=["good end's", "bad end's", "neither's"]
)
def test_the_work_of_an_end_decides_about_times(commit: SideWork, verdict: str) -> None:
    """Exactly that of one end; not if shortcuts are not allowed, or both ends do the same."""
    assert TIMES.by_work((WORK, commit), shortcuts=True)[0] == verdict
    assert TIMES.by_work((WORK, commit), shortcuts=False)[0] == SKIP
    assert dataclasses.replace(TIMES, ends=(WORK, WORK)).by_work((WORK, commit), shortcuts=True)[0] == SKIP


def test_losses_come_before_times_and_times_before_work() -> None:
    """Of times, slower before faster, and the plainest; of work, the first difference; None where nothing differs."""
    losses = find_target(duet({512: 0.0, 1024: -0.1}, dataclasses.replace(EXTRA, losses=OTHER.losses)))
    times, work = find_target(SLOWER), find_target(duet({512: 0.0}, EXTRA))
    assert losses
    assert times
    assert work
    assert (losses.name, losses.size) == (LOSSES, 512)
    assert (times.name, times.size, round(times.effect, 2), times.ends) == (TIME, 1024, -0.1, (WORK, EXTRA))
    assert (work.name, work.size, work.effect) == ("aten::mm", 512, 0.0)
    mixed = find_target(duet({512: 0.3, 1024: -0.05}))
    assert mixed
    assert (mixed.name, mixed.size) == (TIME, 1024)
    assert find_target(duet({512: 0.0})) is None


def test_exact_targets_look_at_their_own_difference_only() -> None:
    """Other differences come and go between the ends."""
    losses, work = (dataclasses.replace(TIMES, name=name) for name in (LOSSES, "aten::mm"))
    assert [losses.by_work((WORK, one), shortcuts=False)[0] for one in (WORK, EXTRA, OTHER)] == [GOOD, GOOD, BAD]
    assert [work.by_work((WORK, one), shortcuts=False)[0] for one in (WORK, EXTRA, OTHER)] == [GOOD, BAD, GOOD]
    facts = dataclasses.replace(WORK, facts={**WORK.facts, "precision": "bf16"})
    found = find_target(duet({512: 0.0}, facts))
    assert found
    assert found.name == "precision"


def test_a_commit_is_confirmed_by_half_of_the_change_in_its_direction() -> None:
    """Against its parent; what is not decided, or not timed, confirms nothing. Exact differences must be there."""
    effects = (SLOW, 0.6 * SLOW, 0.4 * SLOW, -SLOW)
    assert [TIMES.is_confirmed(duet({512: effect})) for effect in effects] == [True, True, False, False]
    assert not TIMES.is_confirmed(duet({512: SLOW}, num_pairs=6))
    assert not TIMES.is_confirmed(dataclasses.replace(duet({512: SLOW}), judgements={}))
    losses = dataclasses.replace(TIMES, name=LOSSES)
    assert [losses.is_confirmed(duet({512: 0.0}, one)) for one in (WORK, OTHER)] == [False, True]
