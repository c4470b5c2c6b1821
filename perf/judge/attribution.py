"""What took another time than before: the phases and operations of two sides, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perf.judge.stats import FloatArray
from perf.records.phases import PHASES, STEP_PHASES, PhaseTime
from perf.robust import deviation

STANDARD_ERRORS = 4.0
"""How many standard errors a difference must exceed to be significant; there are about a hundred rows to find it in."""

SHARE = 0.005
"""The smallest difference in time that matters, as a part of the baseline's step."""

MIN_VISITS = 3
"""Of each side: with fewer, no spread can be told."""

Visit = Sequence[PhaseTime]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribution:
    """What one operation in one phase adds to the difference between two sides.

    Attributes:
        phase, operation: as in `PhaseTime`.
        count_before, count_now: how often it was dispatched; medians over the visits.
        before_s, now_s: its seconds, the same.
        standard_error_s: of the difference of the seconds.
        is_significant: whether the count changed, or the time by more than chance and by enough to matter.
    """

    phase: str
    operation: str
    count_before: float
    count_now: float
    before_s: float
    now_s: float
    standard_error_s: float
    is_significant: bool

    @property
    def difference_s(self) -> float:
        """Seconds now less seconds before."""
        return self.now_s - self.before_s


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseTotal:
    """The time of a phase with all its operations: medians over the visits, seconds."""

    phase: str
    before_s: float
    now_s: float

    @property
    def difference_s(self) -> float:
        """Seconds now less seconds before."""
        return self.now_s - self.before_s


def attribute_difference(baseline: Sequence[Visit], candidate: Sequence[Visit]) -> list[Contribution]:
    """Return every operation of either side: significant differences first, in steps before outside of them, largest first.

    Args:
        baseline: what `perf.runner.attribution.attribute` returned, in several visits.
        candidate: the same, in visits that took turns with the baseline's.

    Raises:
        ValueError: a side has too few visits, or an empty one.
    """
    _require_visits(baseline, candidate)
    step_s = sum(total.before_s for total in phase_totals(baseline, candidate) if total.phase in STEP_PHASES)
    keys = dict.fromkeys((row.phase, row.operation) for visit in (*baseline, *candidate) for row in visit)
    counts, seconds = zip(*(_by_key(side, list(keys)) for side in (baseline, candidate)), strict=True)
    count_before, count_now = (np.median(side, axis=1) for side in counts)
    before, now = (np.median(side, axis=1) for side in seconds)
    matters = SHARE * step_s
    error = np.hypot(*(_median_error(side, matters) for side in seconds))
    change = np.abs(now - before)
    significant = (count_before != count_now) | ((change > STANDARD_ERRORS * error) & (change >= matters))
    contributions = [
        Contribution(
            phase=phase,
            operation=operation,
            count_before=float(count_before[index]),
            count_now=float(count_now[index]),
            before_s=float(before[index]),
            now_s=float(now[index]),
            standard_error_s=float(error[index]),
            is_significant=bool(significant[index]),
        )
        for index, (phase, operation) in enumerate(keys)
    ]
    # The rate is that of steps: what is no part of one cannot explain it, however much it differs.
    return sorted(
        contributions, key=lambda row: (not row.is_significant, row.phase not in STEP_PHASES, -abs(row.difference_s))
    )


def phase_totals(baseline: Sequence[Visit], candidate: Sequence[Visit]) -> list[PhaseTotal]:
    """Return the time of each phase on both sides.

    Raises:
        ValueError: a side has too few visits, or an empty one.
    """
    _require_visits(baseline, candidate)

    def total(side: Sequence[Visit], phase: str) -> float:
        return float(np.median([sum(row.seconds for row in visit if row.phase == phase) for visit in side]))

    return [PhaseTotal(phase=phase, before_s=total(baseline, phase), now_s=total(candidate, phase)) for phase in PHASES]


def _require_visits(baseline: Sequence[Visit], candidate: Sequence[Visit]) -> None:
    if min(len(baseline), len(candidate)) < MIN_VISITS or not all((*baseline, *candidate)):
        raise ValueError(
            f"{len(baseline)} and {len(candidate)} visits: {MIN_VISITS} on each side are needed, none of them empty"
        )


def _by_key(side: Sequence[Visit], keys: list[tuple[str, str]]) -> tuple[FloatArray, FloatArray]:
    """Return counts and seconds, each (keys, visits); 0 where a visit does not have the operation."""
    rows = [{(row.phase, row.operation): row for row in visit} for visit in side]
    counts = [[float(visit[key].count) if key in visit else 0.0 for visit in rows] for key in keys]
    seconds = [[visit[key].seconds if key in visit else 0.0 for visit in rows] for key in keys]
    return np.array(counts), np.array(seconds)


def _median_error(seconds: FloatArray, matters: float) -> FloatArray:
    """Return the standard error of the median of each row (K, R), from its median absolute deviation.

    Of a hundred spreads over a few visits some are small by luck. So none is taken to be smaller, in relation to its
    median, than that of half the rows which are long enough to matter.
    """
    medians = np.median(seconds, axis=1)
    error = 1.2533 * deviation(seconds) / np.sqrt(seconds.shape[1])  # a normal median varies 1.2533 times as the mean
    long_enough = medians >= max(matters, np.finfo(float).tiny)
    typical = np.median(error[long_enough] / medians[long_enough]) if long_enough.any() else 0.0
    return np.asarray(np.maximum(error, typical * medians))
