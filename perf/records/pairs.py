"""What a pair of runs gave, one of each side, and what follows from its marks."""

import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from msgspec import Struct

Marks = tuple[float, ...]

FEWEST_STARTS = 4  # with fewer starts nothing is decided: how much they spread is not known
# About how many times the variance between starts that between pairs of one start is; docs/studies/noise.py prints both.
VARIANCE_RATIO = 6.0


class Mode(StrEnum):
    """How two sides share a machine."""

    SIMULTANEOUS = "simultaneous"
    ALTERNATING = "alternating"


class Pair(Struct, frozen=True, kw_only=True):
    """One run of each side at one batch size."""

    global_batch_size: int  # of both
    start: int  # which start of the sides' processes it belongs to, from 0
    ended_s: float  # seconds of the duet when the pair ended
    effect: float  # logarithm of the candidate's rate over the baseline's; below 0 the candidate is slower
    # baseline, candidate: the marks of each slice, seconds from the first mark of the pair
    baseline: tuple[Marks, ...]
    candidate: tuple[Marks, ...]


def simultaneous_effect(baseline: Marks, candidate: Marks) -> float:
    """Return the logarithm of the candidate's rate over the baseline's, while both were stepping.

    Marks are of one clock, seconds: before the first step, and after each. NaN if they were never stepping at once.
    """
    begin, end = max(baseline[0], candidate[0]), min(baseline[-1], candidate[-1])
    done = [np.diff(np.interp((begin, end), side, range(len(side))))[0] for side in (candidate, baseline)]
    return float(np.log(done[0] / done[1])) if min(done) > 0 else float("nan")


def alternating_effect(baseline: Sequence[Marks], candidate: Sequence[Marks]) -> float:
    """Return the same for slices in turns: the median over blocks of four (ABBA), in which a steady drift cancels."""
    logs = [
        np.log([marks[-1] - marks[0] for marks in side]).reshape(-1, 2).sum(axis=1) for side in (baseline, candidate)
    ]
    return float(np.median(logs[0] - logs[1]) / 2)


def pairs_per_start(*, start_s: float, round_s: float, budget_s: float) -> int:
    """Return how many pairs of each batch size a start should have, so that the budget shows the smallest effect.

    The best number is the root of the ratio of the costs times the ratio of the variances (Kalibera and Jones 2013);
    fewer where `FEWEST_STARTS` would not fit into the budget. `budget_s` is of the whole duet,
    `round_s` what a pair of each batch size takes.
    """
    best = round(math.sqrt(start_s / round_s * VARIANCE_RATIO))
    fitting = int((budget_s / FEWEST_STARTS - start_s) / round_s)
    return max(1, min(best, fitting))
