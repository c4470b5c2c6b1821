"""The step a logged run began at, where its log does not say so, and the time between its lines."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np

from perf.logs.rates import LAST_DIGIT, MOMENT_S, SMOOTHING
from perf.logs.runlog import LoggedRun, LogLine

_MOST_STARTS = 10_000
"""Starts that are tried beside step 0: the earliest of a larger log window, the latest where it is not known."""

_MOST_LINES = 100  # lines that each start is tried with: the later a line, the less its time depends on the start


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """What lies between a line and the one before, or the start of the run; arrays where several starts are tried."""

    steps: Any  # how many steps
    seconds: Any  # their time, seconds per sample of a step
    rounding: Any  # how far the printed digits let `seconds` be off
    is_window: Any  # whether it is one log window: no line is missing in it


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


def is_possible(line: LogLine, *, start_step: int = 0) -> bool:
    """Tell whether a time follows from a line; far beyond these bounds the products of times overflow or vanish."""
    return line.global_step > start_step and 1e-60 < line.global_rate < 1e60


def gaps(run: LoggedRun, start: Any, window: int | None) -> Iterator[tuple[LogLine, Gap | None]]:
    """Yield each line of a run with the gap before it; None where no time follows from one of its ends.

    `start` is the step it began at, or an array of starts, none after its first line; `window` is from `log_window`.
    """
    latest_start = int(np.max(start))
    before: tuple[Any, Any, Any] | None = (start, 0.0, 0.0)  # step, time, and how far rounding lets the time be off
    for line in run.lines:
        gap = here = None
        if is_possible(line, start_step=latest_start):
            time = (line.global_step - start) / line.global_rate
            here = (line.global_step, time, time * LAST_DIGIT / 2 / line.global_rate)
            if before is not None:
                steps, seconds, rounding = here[0] - before[0], here[1] - before[1], here[2] + before[2]
                is_window = line.global_step not in run.after_gap and (window is None or steps <= window)
                gap = Gap(steps=steps, seconds=seconds, rounding=rounding, is_window=is_window)
        yield line, gap
        before = here


def find_start(run: LoggedRun) -> tuple[int, bool]:
    """Return the step that a run with step lines began at: as its log says, else 0 or within one log window before.

    Also return whether no other start fits the lines as well. Of the starts that most of the first lines agree with,
    one that makes the samples of the end line a whole number for each step comes first, then one that most lines
    agree with by rounding alone, then the earliest.
    """
    if run.start is not None:
        return run.start.first_step - 1, True
    first, window = run.lines[0].global_step, log_window(run)
    earliest = max(first - (window or _MOST_STARTS), 0)
    starts = np.unique(np.append(np.arange(earliest, min(first, earliest + _MOST_STARTS)), 0))
    moment: Any = MOMENT_S  # the batch size is not known, and may be 1
    whole: Any = False
    if run.end and run.last_line and run.end.samples > 0:
        steps = run.last_line.global_step - starts
        moment = MOMENT_S * steps / run.end.samples
        whole = (steps > 0) & (run.end.samples % np.maximum(steps, 1) == 0)
    fit = 2 * _num_agreeing(run, starts, window, moment) + whole
    best = starts[fit == fit.max()]
    start = best[np.argmax(_num_agreeing(run, best, window, 0.0))]
    return int(start), len(best) == 1 and (window or first) <= _MOST_STARTS


def _num_agreeing(run: LoggedRun, starts: Any, window: int | None, moment: Any) -> Any:
    """Return for each start how many of the first lines agree with it; `moment` in seconds per sample of a step."""
    num_agreeing = np.zeros(len(starts), dtype=np.int64)
    past, weight = 0.0, 1.0
    for line, gap in islice(gaps(run, starts, window), _MOST_LINES):
        # The first line of an unknown log window need not be the first of its run.
        if gap is not None and not (window is None and line is run.lines[0]):
            # Rounding of both rates together is less than one digit.
            slowest, fastest = (
                max(line.rate + digit - (1 - weight) * past, 0.0) / weight for digit in (-LAST_DIGIT, LAST_DIGIT)
            )
            error = gap.rounding + moment
            with np.errstate(all="ignore"):  # an infinite or a huge rate
                agrees = (gap.steps <= fastest * (gap.seconds + error)) & (gap.steps >= slowest * (gap.seconds - error))
            num_agreeing += agrees | np.logical_not(gap.is_window)
        past, weight = line.rate, SMOOTHING
    return num_agreeing
