"""The step a logged run began at, where its log does not say so."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise

from perf.logs.rates import LAST_DIGIT, MOMENT_S, SMOOTHING
from perf.logs.runlog import LoggedRun, LogLine

_MOST_STARTS = 2000
"""Equally likely starts of which the samples of the end line choose one."""


def log_window(run: LoggedRun) -> int | None:
    """Return the usual number of steps between two lines, of equals the largest.

    None where the lines leave it open: the only step between two lines can be shorter, if the second is the run's last.
    So can the last of several, and the first after a known start.
    """
    known = [] if run.start is None else [run.start.first_step - 1]
    steps = [later - earlier for earlier, later in pairwise([*known, *(line.global_step for line in run.lines)])]
    whole = steps[len(known) : -1]
    if not whole:
        return max(steps) if known else None
    return max(statistics.multimode(whole))


def is_possible(line: LogLine) -> bool:
    """Tell whether a time follows from a line; far beyond these bounds the products of times overflow or vanish."""
    return line.global_step > 0 and 1e-60 < line.global_rate < 1e60


def is_one_window(run: LoggedRun, line: LogLine, previous_step: int, window: int | None) -> bool:
    """Tell whether a line closes one log window: no line before it is missing, at the head of the log or within."""
    return line.global_step not in run.after_gap and (window is None or line.global_step - previous_step <= window)


def find_start(run: LoggedRun) -> tuple[int, bool]:
    """Return the step that a run with step lines began at: as its log says, else 0 or within one log window before.

    Also return whether no other start fits the lines as well.
    """
    if run.start is not None:
        return run.start.first_step - 1, True
    if run.end is not None and run.end.samples > 0:
        assert run.last_line is not None
        # The moment at the start s is MOMENT_S over the batch size, which is samples / (last step - s).
        per_step = MOMENT_S / run.end.samples
        return _choose(run, _fitting_starts(run, per_step * run.last_line.global_step, per_step))
    # The batch size is not known, and may be 1. Of the starts that most lines then agree with, one that most lines
    # agree with by rounding alone comes first. It is certain only if there is no other.
    generous = list(_fitting_starts(run, MOMENT_S, 0.0))
    start, _ = _choose(run, _fitting_starts(run, 0.0, 0.0), before=generous)
    return start, _choose(run, generous) == (start, True)


def _fitting_starts(run: LoggedRun, moment: float, moment_per_step: float) -> Iterator[tuple[float, float]]:
    """Yield the first and last start that each line agrees with, for the lines that restrict it.

    Args:
        run: a run with step lines.
        moment: what is allowed between readings of the clock if the run began at step 0, seconds per sample of a step.
        moment_per_step: how much less it is for each step that the run began later.
    """
    window = log_window(run)
    half = LAST_DIGIT / 2
    before: LogLine | None = None
    for line in run.lines:
        if not is_possible(line):
            before = None
            continue
        # Times and their errors fall linearly with the start, and so does what the line agrees with.
        n, per = line.global_step, 1 / line.global_rate
        if before is not None and is_one_window(run, line, before.global_step, window):
            p, per_before = before.global_step, 1 / before.global_rate
            shortest, longest = _window_seconds(line, n - p, before.rate)
            seconds, less = n * per - p * per_before, per - per_before
            error = half * (n * per**2 + p * per_before**2) + moment
            less_error = half * (per**2 + per_before**2) + moment_per_step
            yield _at_most(
                (less_error - less, longest - seconds + error), (less + less_error, seconds + error - shortest)
            )
        elif line is run.lines[0] and window is not None and n not in run.after_gap:
            part = max(abs(line.rate - line.global_rate) - LAST_DIGIT, 0.0) * per  # the error over what it leaves
            error = (1 + part) * (half * n * per**2 + moment)
            low, high = _at_most(((1 + part) * (half * per**2 + moment_per_step) - part * per, error - part * n * per))
            if n > window:  # at step 0 it is not the first line of its run, and so says nothing
                yield 0.0, 0.0
            yield max(low, n - window), high
        before = line


def _at_most(*inequalities: tuple[float, float]) -> tuple[float, float]:
    """Return the interval of s in which ``slope * s <= bound`` for each (slope, bound).

    Its ends cross if it is empty.
    """
    low, high = -math.inf, math.inf
    for slope, bound in inequalities:
        if slope > 0:
            high = min(high, bound / slope)
        elif slope < 0:
            low = max(low, bound / slope)
        elif not bound >= 0:
            high = -math.inf
    return low, high


def _window_seconds(line: LogLine, steps: int, rate_before: float) -> tuple[float, float]:
    """Return the shortest and the longest window that the smoothed rates of two lines allow."""
    # Rounding of both rates together is less than one digit. More than one would let a start through that the audit's
    # checks, which go on from recomputed rates, do not agree with.
    most = (line.rate + LAST_DIGIT - (1 - SMOOTHING) * rate_before) / SMOOTHING
    least = (line.rate - LAST_DIGIT - (1 - SMOOTHING) * rate_before) / SMOOTHING
    return steps / most if most > 0 else math.inf, steps / least if least > 0 else math.inf


def _possible_starts(run: LoggedRun) -> range:
    """Return the steps within one log window before the first line; step 0 is possible, too."""
    first = run.lines[0].global_step
    return range(max(first - (log_window(run) or first), 0), max(first, 1))


def _choose(
    run: LoggedRun, fitting: Iterable[tuple[float, float]], before: Sequence[tuple[float, float]] = ()
) -> tuple[int, bool]:
    """Return the start that the most lines agree with, and whether it is the only one.

    Of equals, one that makes the samples of the end line a whole number for each step comes first, then the earliest.

    Args:
        run: a run with step lines.
        fitting: for each line that restricts the start, the first and last start that it agrees with, as real numbers.
        before: the same, with another tolerance; only among the starts that most of these agree with is chosen.
    """
    many = len(run.lines) + 1  # weighs more than all of `fitting`
    weighed = chain(((*ends, 1) for ends in fitting), ((*ends, many) for ends in before))
    segments = _segments(_possible_starts(run), weighed)
    most = max(weight for *_, weight in segments)
    best = [range(first, last + 1) for first, last, weight in segments if weight == most]
    if run.end is not None and run.last_line is not None and run.end.samples > 0:
        last_step, samples = run.last_line.global_step, run.end.samples
        some = islice(chain.from_iterable(best), _MOST_STARTS)
        whole = [start for start in some if last_step > start and samples % (last_step - start) == 0]
        if whole:
            return whole[0], len(whole) == 1 and sum(map(len, best)) <= _MOST_STARTS
    return best[0][0], sum(map(len, best)) == 1


def _segments(starts: range, weighed: Iterable[tuple[float, float, int]]) -> list[tuple[int, int, int]]:
    """Return step 0 and `starts` in order, cut where the weight of agreeing lines changes: first, last, weight."""
    at_zero = 0
    change = Counter({starts[0]: 0, starts[-1] + 1: 0})
    for first, last, weight in weighed:
        at_zero += weight * (first <= 0 <= last)
        first, last = max(first, starts[0]), min(last, starts[-1])
        if first <= last and math.ceil(first) <= math.floor(last):
            change[math.ceil(first)] += weight
            change[math.floor(last) + 1] -= weight
    segments = [] if starts[0] == 0 else [(0, 0, at_zero)]
    agreeing = 0
    for first, end in pairwise(sorted(change)):
        agreeing += change[first]
        segments.append((first, end - 1, agreeing))
    return segments
