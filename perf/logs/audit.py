"""Whether the rates of a logged run agree with each other, from nothing but its lines.

With ``GlobalRate = samples / seconds`` the time of every line follows from its step, and a batch size cancels out of
every rate, so steps stand in for samples: times here are seconds per sample of a step. What the lines do not tell is
the step the run began at. It is searched for: 0, or up to one log window before the first line (a resumed run).

A tracker reads the clock for Rate, again for GlobalRate, and again for the total: the times differ by moments.
"""

import math
import statistics
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from perf.logs.runlog import SMOOTHING, EndLine, LoggedRun, LogLine

LAST_DIGIT = 0.01  # of a printed rate, samples/sec: it may be off by as much (rounded or truncated)
MOMENT_S = 0.001  # the most time that is allowed between two readings of the clock for one line, seconds

# Starts that are tried beside step 0: the earliest of a larger log window, the latest where it is not known.
_MOST_STARTS = 10_000
_MOST_LINES = 100  # lines that each start is tried with: the later a line, the less its time depends on the start


class RateCheck(Struct, frozen=True, kw_only=True):
    """A printed rate beside its recomputation."""

    line: LogLine  # the line that was checked
    # samples/sec; None where it does not follow from the lines there are: one before is missing, or their printed
    # decimals leave no time between the two
    recomputed_rate: float | None = None
    # how much of a difference the printed decimals and the moments between readings of the clock can explain,
    # samples/sec; only the decimals where the batch size is not known
    explained: float | None = None
    agrees: bool | None = None  # whether the difference is no more than that; None where it is unknown

    def as_json(self) -> dict[str, Any]:
        """Return the check as JSON values, not all of them finite; rates in samples/sec."""
        printed = {name: getattr(self.line, name) for name in ("global_step", "loss", "rate", "global_rate")}
        return printed | {name: getattr(self, name) for name in ("recomputed_rate", "explained", "agrees")}


class RunAudit(Struct, frozen=True, kw_only=True):
    """What the audit of one run found."""

    run: LoggedRun  # the run that was audited
    start_step: int = 0  # the step that `checks` assume its timed region began at
    start_is_certain: bool = False  # whether no other start fits the lines as well
    checks: list[RateCheck] = []  # one for each step line that was kept
    # samples per step, as the log says, or from the end line and `start_step`; None where they do not tell
    global_batch_size: int | None = None
    problems: list[str] = []  # what does not fit together, in words
    notes: list[str] = []  # what could not be checked, and what needs no mending, in words

    def as_json(self) -> dict[str, Any]:
        """Return the audit as plain JSON values; rates in samples/sec, null for what is not a finite number."""
        found = {
            "first_line_number": self.run.first_line_number,
            "start_step": self.start_step,
            "start_is_certain": self.start_is_certain,
            "global_batch_size": self.global_batch_size,
            "lines": [check.as_json() for check in self.checks],
            "evaluation_lines": self.run.num_evaluation_lines,
            "end": self.run.end,
            "refused": self.run.refused,
            "problems": self.problems,
            "notes": self.notes,
        }
        return msgspec.json.decode(msgspec.json.encode(found), type=dict[str, Any])  # a number not finite becomes null


def audit_run(run: LoggedRun) -> RunAudit:
    """Recompute each Rate of `run` from its GlobalRate column and compare the total time with the lines.

    Time and memory are proportional to the number of lines.
    """
    if run.last_line is None:
        size = run.start.global_batch_size if run.start else None
        notes = ["an end line without step lines before it"] if run.end else []
        return RunAudit(run=run, global_batch_size=size, notes=notes)
    start_step, is_certain = _find_start(run)
    num_steps = run.last_line.global_step - start_step
    samples = run.end.samples if run.end and num_steps > 0 else 0
    by_end = samples // num_steps if samples and samples % num_steps == 0 else None
    size = run.start.global_batch_size or None if run.start else by_end
    # Samples that make no whole number for each step: the last steps have no line, and are at most as many as the rest.
    least_size = size or samples / 2 / max(num_steps, 1)
    audit = RunAudit(run=run, start_step=start_step, start_is_certain=is_certain, global_batch_size=size)
    _check_rates(audit, MOMENT_S / least_size if least_size else None)
    _sum_up_checks(audit)
    if run.end:
        _check_total(audit, run.end, run.last_line)
    if by_end not in (None, size):
        audit.problems.append(f"its end line makes {by_end} samples a step, and its start {size}")
    return audit


def _check_rates(audit: RunAudit, moment: float | None) -> None:
    """Add a check of every line of the run, and what is wrong with it.

    Smoothing goes on from the recomputed rate before, so that a false rate does not make the next look false; where
    that one could not be checked, from the printed rate. `moment` is what is allowed between readings of the clock,
    seconds per sample of a step; None where it is unknown.
    """
    checks, problems, window = audit.checks, audit.problems, _log_window(audit.run)
    weight, past, past_error = 1.0, 0.0, 0.0  # of the window's rate; the rate before, and its error
    for line, steps, seconds, rounding, is_broken in _gaps(audit.run, audit.start_step, window):
        check = RateCheck(line=line)
        smoothing_error = (1 - weight) * past_error + LAST_DIGIT
        explained, most = (
            weight * _window_error(steps, seconds, rounding + (default if moment is None else moment)) + smoothing_error
            for default in (0.0, MOMENT_S)
        )
        if most < 0 or not _is_possible(line, start_step=audit.start_step):
            step = f"Step={line.global_step}"
            problems.append(f"{step}: GlobalRate={line.global_rate} cannot be, after the lines before it")
        elif math.isfinite(explained) and not is_broken:
            rate = weight * steps / seconds + (1 - weight) * past
            difference = abs(line.rate - rate)
            agrees = True if difference <= explained * (1 + 1e-9) else None if difference <= most else False
            # The first line of an unknown log window need not be the first of its run.
            if agrees is not False or window is not None or checks:
                check = RateCheck(line=line, recomputed_rate=rate, explained=explained, agrees=agrees)
        if check.agrees is False:
            problems.append(
                f"Step={line.global_step}: Rate={line.rate:.2f} printed, {rate:.2f} recomputed "
                f"(rounding and the moments between readings of the clock explain {explained:.2f})"
            )
        weight, past, past_error = SMOOTHING, line.rate, LAST_DIGIT
        if check.agrees is not None:
            past, past_error = rate, explained
        checks.append(check)


def _window_error(steps: int, seconds: float, error: float) -> float:
    """Return how far off a window's rate may be, samples/sec, where its time may be off by `error`.

    Infinitely far where that leaves no time; -inf where time runs backwards in spite of it.
    """
    if seconds > error:
        return steps * error / seconds / (seconds - error)
    return -math.inf if seconds < -error else math.inf


def _sum_up_checks(audit: RunAudit) -> None:
    """Say once for the run what its checks have in common."""
    run, checks, problems, notes = audit.run, audit.checks, audit.problems, audit.notes
    if unsure := sum(check.recomputed_rate is not None and check.agrees is None for check in checks):
        notes.append(
            f"{unsure} of its rates differ by more than rounding explains; whether the moments between readings of the "
            "clock explain it depends on the batch size, which the log does not give"
        )
    if problems and any(line.has_tail for line in run.lines):
        notes.append(
            f"{len(problems)} of its {len(checks)} rates do not follow the published smoothing; its lines end in a "
            "remaining time, and the releases that print one smooth in another way"
        )
        checks[:] = [msgspec.structs.replace(check, agrees=check.agrees or None) for check in checks]
        problems.clear()
    if all(check.agrees is None for check in checks):
        notes.append("none of its rates could be checked")
    if run.num_left_out:
        notes.append(f"only its first {len(checks):,} step lines were checked; {run.num_left_out:,} more were left out")


def _check_total(audit: RunAudit, end: EndLine, last: LogLine) -> None:
    """Add what is wrong with the total time, and what is to be said about it."""
    size = audit.global_batch_size
    if not 0 < end.seconds < math.inf:
        audit.problems.append(f"Processed {end.samples} sample(s) in {end.seconds} seconds: the time must be positive")
    elif _is_possible(last):
        samples = end.samples if size is None else size * (last.global_step - audit.start_step)
        seconds = samples / last.global_rate
        # Two moments: the last line is written between the readings for its GlobalRate and for the total.
        error = 1.5 * LAST_DIGIT * seconds / last.global_rate + 2 * MOMENT_S
        rates = (
            f"{samples} samples in {end.seconds:.3f} s are {samples / end.seconds:.2f} samples/sec, but the last "
            f"GlobalRate is {last.global_rate:.2f}"
        )
        if end.seconds > seconds + error:
            audit.notes.append(
                f"its total time of {end.seconds:.3f} s is {end.seconds - seconds:.3f} s longer than its lines explain "
                "(compilation, checkpoints and evaluation lie outside the lines)"
            )
        elif end.seconds < seconds - error and size is None:
            audit.notes.append(f"{rates}; its last steps may have no line")
        elif end.seconds < seconds - error:
            audit.problems.append(f"{rates}: one of them is false")


def _find_start(run: LoggedRun) -> tuple[int, bool]:
    """Return the step that a run with step lines began at: as its log says, else 0 or within one log window before.

    Also return whether no other start fits the lines as well. Of the starts that most of the first lines agree with,
    one that makes the samples of the end line a whole number for each step comes first, then one that most lines
    agree with by rounding alone, then the earliest.
    """
    if run.start is not None:
        return run.start.first_step - 1, True
    first, window = run.lines[0].global_step, _log_window(run)
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


@np.errstate(all="ignore")  # an infinite or a huge rate
def _num_agreeing(run: LoggedRun, starts: Any, window: int | None, moment: Any) -> Any:
    """Return for each start how many of the first lines agree with it, or cannot be checked; `moment` as elsewhere."""
    num_agreeing = np.zeros(len(starts), dtype=np.int64)
    weight, past = 1.0, 0.0
    for line, steps, seconds, rounding, is_broken in islice(_gaps(run, starts, window), _MOST_LINES):
        # Rounding of both rates together is less than one digit.
        slowest, fastest = (
            max(line.rate + digit - (1 - weight) * past, 0.0) / weight for digit in (-LAST_DIGIT, LAST_DIGIT)
        )
        error = rounding + moment
        agrees = (steps <= fastest * (seconds + error)) & (steps >= slowest * (seconds - error))
        if window is not None or line is not run.lines[0]:  # as in `_check_rates`
            num_agreeing += agrees | is_broken
        weight, past = SMOOTHING, line.rate
    return num_agreeing


def _gaps(run: LoggedRun, start: Any, window: int | None) -> Iterator[tuple[LogLine, Any, Any, Any, Any]]:
    """Yield each line of a run with what lies between it and the one before, or the start; arrays for several starts.

    That is how many steps; their time, seconds per sample of a step, NaN where none follows from one of the lines; how
    far the printed digits let it be off; and whether it is NaN, or a line is missing in between.
    `start` is the step the run began at, or several, none after its first line; `window` is from `_log_window`.
    """
    latest_start = int(np.max(start))
    last_step, last_time, last_rounding = start, 0.0, 0.0
    for line in run.lines:
        global_rate = line.global_rate if _is_possible(line, start_step=latest_start) else math.nan
        steps, time = line.global_step - last_step, (line.global_step - start) / global_rate
        rounding = time * LAST_DIGIT / 2 / global_rate
        is_cut = line.global_step in run.after_gap or (window is not None and steps > window)
        is_broken = np.isnan(time - last_time) | is_cut
        yield line, steps, time - last_time, rounding + last_rounding, is_broken
        last_step, last_time, last_rounding = line.global_step, time, rounding


def _is_possible(line: LogLine, *, start_step: int = 0) -> bool:
    """Tell whether a time follows from a line; far beyond these bounds the products of times overflow or vanish."""
    return line.global_step > start_step and 1e-60 < line.global_rate < 1e60


def _log_window(run: LoggedRun) -> int | None:
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
