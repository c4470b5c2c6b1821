"""Where the time of two sides differs: their phases and operations, compared."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

from perf.judge.stats import FloatArray
from perf.records.sessions import deviation
from perf.records.wire import STEP_PHASES, PhaseTime

STANDARD_ERRORS = 4.0  # that a significant difference exceeds; high, since about a hundred rows are tested
SHARE = 0.005  # the smallest difference in time that matters, as a fraction of the baseline's step

Visit = Sequence[PhaseTime]


class PhaseDifference(Struct, frozen=True, kw_only=True):
    """The time of a phase with all its operations: medians over the visits, seconds."""

    phase: str
    baseline_s: float
    candidate_s: float

    @property
    def difference_s(self) -> float:
        """Seconds of the candidate less seconds of the baseline."""
        return self.candidate_s - self.baseline_s


class Contribution(PhaseDifference, frozen=True, kw_only=True):
    """The time of one operation in a phase, and whether it differs."""

    operation: str  # as in `PhaseTime`
    # baseline_count, candidate_count: dispatches per step; medians over the visits
    baseline_count: float
    candidate_count: float
    standard_error_s: float  # of the difference of the seconds
    is_significant: bool  # whether the count differs, or the time by more than chance explains and by enough to matter
    # the candidate's source line that calls it more often than the baseline's does, as in `PhaseTime.lines`, if any
    line: str = ""


def attribute_difference(baseline: Sequence[Visit], candidate: Sequence[Visit]) -> list[Contribution]:
    """Return every operation of a step on either side: the significant first, of these the largest.

    The sides were visited in turns, several times; the rows of a visit are of `perf.runner.attribution.attribute`.
    """
    step_s = sum(total.baseline_s for total in phase_totals(baseline, candidate))
    visits = [[{(row.phase, row.operation): row for row in visit} for visit in side] for side in (baseline, candidate)]
    keys = list(dict.fromkeys(key for side in visits for visit in side for key in visit))
    absent = PhaseTime(phase="", operation="", count=0, seconds=0)
    # first by side, then by key, then by visit
    rows = [[[visit.get(key, absent) for visit in side] for key in keys] for side in visits]
    seconds = [np.array([[row.seconds for row in some] for some in side]) for side in rows]
    baseline_s, candidate_s = (np.median(side, axis=1) for side in seconds)
    baseline_count, candidate_count = (np.median([[row.count for row in k] for k in side], axis=1) for side in rows)
    matters = SHARE * step_s
    error = np.hypot(*(_median_error(side, matters) for side in seconds))
    change = np.abs(candidate_s - baseline_s)
    significant = (baseline_count != candidate_count) | ((change > STANDARD_ERRORS * error) & (change >= matters))
    contributions = [
        Contribution(
            phase=phase,
            operation=operation,
            baseline_count=float(baseline_count[index]),
            candidate_count=float(candidate_count[index]),
            baseline_s=float(baseline_s[index]),
            candidate_s=float(candidate_s[index]),
            standard_error_s=float(error[index]),
            is_significant=bool(significant[index]),
            line=_more_often(*(side[index][0].lines for side in rows)),
        )
        for index, (phase, operation) in enumerate(keys)
        if phase in STEP_PHASES  # sides of other versions time more, which cannot explain the rate of steps
    ]
    return sorted(contributions, key=lambda row: (not row.is_significant, -abs(row.difference_s)))


def phase_totals(baseline: Sequence[Visit], candidate: Sequence[Visit]) -> list[PhaseDifference]:
    """Return the time of each phase on both sides, from their visits."""

    def total(side: Sequence[Visit], phase: str) -> float:
        return float(np.median([sum(row.seconds for row in visit if row.phase == phase) for visit in side]))

    return [
        PhaseDifference(phase=phase, baseline_s=total(baseline, phase), candidate_s=total(candidate, phase))
        for phase in STEP_PHASES
    ]


def _more_often(baseline: Mapping[str, float], candidate: Mapping[str, float]) -> str:
    """Return the candidate's line whose text is called most beyond the baseline's lines of it, or nothing."""
    more: defaultdict[str, float] = defaultdict(float)
    for sign, lines in ((-1, baseline), (1, candidate)):
        for line, count in lines.items():
            more[line.partition(": ")[2]] += sign * count
    text, excess = max(more.items(), key=lambda item: item[1], default=("", 0.0))
    places = [line for line in candidate if excess > 0 and line.partition(": ")[2] == text]
    return max(places, key=lambda line: candidate[line], default="")


def _median_error(seconds: FloatArray, matters: float) -> FloatArray:
    """Return the standard error of the median of each row (K, R), from its median absolute deviation.

    Of a hundred spreads over a few visits some are small by chance. So each is at least the median relative spread of
    the rows that are long enough to matter.
    """
    medians = np.median(seconds, axis=1)
    # In a normal distribution the median varies 1.2533 times as much as the mean.
    error = 1.2533 * deviation(seconds) / np.sqrt(seconds.shape[1])
    long_enough = medians >= max(matters, np.finfo(float).tiny)
    typical = np.median(error[long_enough] / medians[long_enough]) if long_enough.any() else 0.0
    return np.asarray(np.maximum(error, typical * medians))
