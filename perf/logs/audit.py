"""Whether the rates of a logged run agree with each other, from nothing but its lines.

With ``GlobalRate = samples / seconds`` the time of every line follows from its step, and a batch size cancels out of
every rate, so steps stand in for samples: times here are seconds per sample of a step. What the lines do not tell is
the step the run began at: 0, or up to one log window before the first line (a resumed run). The end line tells, since
its samples are a whole number for each step. Where it does not, no rate is called false.

A tracker reads the clock for Rate, again for GlobalRate, and again for the total: the times differ by moments.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from perf.logs.runlog import SMOOTHING, EndLine, LoggedRun, LogLine

LAST_DIGIT = 0.01  # of a printed rate, samples/sec: it may be off by as much (rounded or truncated)
MOMENT_S = 0.001  # the most time that is allowed between two readings of the clock for one line, seconds

_MOST_STEPS = 10_000  # of a log window of which each step is taken for a possible start
_MOST_STARTS = 20  # that are tried


class RateCheck(Struct, frozen=True, kw_only=True):
    """A printed rate beside its recomputation; rates in samples/sec."""

    line: LogLine  # the line that was checked
    # None where it does not follow: a line before is missing, or the tolerance leaves no time in between
    recomputed_rate: float | None = None
    explained: float | None = None  # what the printed decimals and the moments between readings of the clock explain
    # whether the difference is no more than that; False also for a GlobalRate that cannot be, None where unknown
    agrees: bool | None = None


class RunAudit(Struct, kw_only=True):
    """What the audit of one run found."""

    run: LoggedRun
    start_step: int = 0  # the step that `lines` assume its timed region began at
    start_is_certain: bool = False  # whether no other start fits the lines as well
    # samples per step, as the log says, or from the end line and `start_step`; None where they do not tell
    global_batch_size: int | None = None
    lines: list[RateCheck] = []  # one for each step line that was kept
    problems: list[str] = []  # what does not fit together, in words
    notes: list[str] = []  # what could not be checked, and what needs no mending, in words

    def as_json(self) -> dict[str, Any]:
        """Return the audit as plain JSON values; rates in samples/sec, null for what is not a finite number."""
        lines = [{**asdict(check.line), **asdict(check)} for check in self.lines]
        for line in lines:
            del line["line"], line["has_tail"]
        about = ("first_line_number", "format", "num_evaluation_lines", "end", "refused")
        found = {**{name: getattr(self.run, name) for name in about}, **asdict(self), "lines": lines}
        del found["run"]
        return msgspec.json.decode(msgspec.json.encode(found), type=dict[str, Any])


def audit_run(run: LoggedRun) -> RunAudit:
    """Recompute each Rate of `run` from its GlobalRate column and compare the total time with the lines.

    Time and memory are proportional to the number of lines.
    """
    size = run.start.global_batch_size or None if run.start else None
    audit = RunAudit(run=run, global_batch_size=size)
    problems, notes = audit.problems, audit.notes
    if run.last_line is None:
        notes += ["an end line without step lines before it"] if run.end else []
        return audit
    if run.num_repeated:
        notes.append(f"{run.num_repeated:,} lines that were there already, as of other ranks, are left out")
    if run.format != "cerebras":
        _audit_window_rates(audit, run)
        return audit
    window = _log_window(run)
    starts, is_known = _starts(run, window)
    misfits = {start: sum(check.agrees is False for check in _checks(run, start, window)) for start in starts}
    fewest = min(misfits.values())
    fitting = [start for start in starts if misfits[start] == fewest]
    fitting = [start for start in fitting if _samples_per_step(run, start).is_integer()] or fitting
    audit.start_step, audit.start_is_certain = fitting[0], is_known and len(fitting) == 1
    by_end = _samples_per_step(run, audit.start_step)
    if not size and by_end.is_integer():
        audit.global_batch_size = size = int(by_end) or None
    audit.lines = [*_checks(run, audit.start_step, window)]
    why = "the step it began at is not known" * (not is_known)
    if any(line.has_tail for line in run.lines):
        why = "its lines end in a remaining time, and the releases that print one smooth in another way"
    if why and fewest:
        notes.append(f"rates that do not follow the published smoothing: {fewest} of {len(audit.lines)}; {why}")
        audit.lines = [replace(check, agrees=check.agrees or None) for check in audit.lines]
    problems += [_problem(check) for check in audit.lines if check.agrees is False or not _global_rate(check.line) > 0]
    if not (size or by_end):
        notes.append("its batch size is not known, so each rate may differ by as much as a batch size of 1 allows")
    if run.num_left_out:
        notes.append(f"only its first {len(run.lines):,} lines were checked; {run.num_left_out:,} more were left out")
    if run.end:
        _check_total(audit, run.end, run.last_line, is_whole=by_end.is_integer())
    if by_end.is_integer() and by_end not in (0, size):
        problems.append(f"its end line makes {by_end:.0f} samples a step, and its start {size}")
    return audit


def printed_seconds(lines: Sequence[LogLine], global_batch_size: int, tokens_per_sample: float) -> tuple[float, ...]:
    """Return how long each log window of a run from step 0 took by what its lines say; none where they do not say it.

    By the first of these that the lines have: seconds of a step, GlobalRate, the rate of the window, tokens/sec of a
    device (`tokens_per_sample`, divided by the number of devices; 0 where that is not known).
    """
    found, before, before_s = [], 0, 0.0
    for line in lines:
        steps = line.global_step - before
        seconds = before_s + (line.step_s or math.nan) * steps
        if math.isnan(seconds):
            seconds = global_batch_size * line.global_step / (_global_rate(line) or math.nan)
        if math.isnan(seconds):
            rate = line.rate if line.rate > 0 else (line.tokens_per_sec or 0.0) / (tokens_per_sample or math.inf)
            seconds = before_s + global_batch_size * steps / (rate or math.nan)
        if not math.isfinite(seconds):
            return ()
        found.append(seconds - before_s)
        before, before_s = line.global_step, seconds
    return tuple(found)


def _audit_window_rates(audit: RunAudit, run: LoggedRun) -> None:
    """Check what the lines of another stack tell twice: the samples of a step, where they are counted and given."""
    audit.lines = [RateCheck(line=line) for line in run.lines]
    audit.global_batch_size = run.lines[-1].global_batch_size or audit.global_batch_size
    for before, line in pairwise(run.lines):
        steps, size = line.global_step - before.global_step, line.global_batch_size or 0
        if line.global_step in run.after_gap or not (size and before.samples and line.samples):
            continue
        samples = line.samples - before.samples
        least, most = sorted((before.global_batch_size or size, size))  # it may be ramped up
        if not least * steps <= samples <= most * steps:
            where = f"step {line.global_step}: {samples:,} samples since step {before.global_step}"
            audit.problems.append(f"{where}, and {steps * size:,} are needed at a global batch size of {size}")
    audit.notes.append("its lines tell each rate once, so nothing in the log says whether they are true")


def _problem(check: RateCheck) -> str:
    line = check.line
    if check.recomputed_rate is None:
        return f"Step={line.global_step}: GlobalRate={line.global_rate} cannot be, after the lines before it"
    return (
        f"Step={line.global_step}: Rate={line.rate:.2f} printed, {check.recomputed_rate:.2f} recomputed "
        f"(rounding and the moments between readings of the clock explain {check.explained:.2f})"
    )


def _check_total(audit: RunAudit, end: EndLine, last_line: LogLine, *, is_whole: bool) -> None:
    """Add what is wrong with the total time, and what is to be said about it; `is_whole`: each step has a line."""
    global_rate = _global_rate(last_line)
    seconds = end.samples / global_rate
    # Two moments: the last line is written between the readings for its GlobalRate and for the total.
    error = 1.5 * LAST_DIGIT * seconds / global_rate + 2 * MOMENT_S
    if end.seconds > seconds + error:
        audit.notes.append(
            f"its total time of {end.seconds:.3f} s is {end.seconds - seconds:.3f} s longer than its lines explain "
            "(compilation, checkpoints and evaluation lie outside the lines)"
        )
    elif is_whole and not (math.isnan(seconds) or end.seconds >= seconds - error):
        audit.problems.append(
            f"{end.samples} samples in {end.seconds:.3f} s, but its last GlobalRate of {global_rate:.2f} samples/sec "
            f"makes {seconds:.3f} s of them: one of them is false"
        )


def _samples_per_step(run: LoggedRun, start: int) -> float:
    steps = run.last_line.global_step - start if run.last_line else 0
    return run.end.samples / steps if run.end and steps > 0 else 0.0


def _starts(run: LoggedRun, window: int | None) -> tuple[list[int], bool]:
    """Return the steps that a run with step lines may have begun at, and whether these are all.

    They are where the log says the step, or where the samples of its end line are a whole number for each step since
    one of them. 0 and one usual log window before the first line are always among them, for a run whose last steps have
    no line.
    """
    if run.start is not None:
        return [run.start.first_step - 1], True
    first = run.lines[0].global_step
    earliest = max(first - (window or first), 0)
    possible = range(earliest, min(first, earliest + _MOST_STEPS)) if run.end else ()
    whole = [start for start in possible if _samples_per_step(run, start).is_integer()]
    is_known = 0 < len(whole) <= _MOST_STARTS and first - earliest <= _MOST_STEPS
    return sorted({0, earliest, *(whole if is_known else ())}), is_known


def _checks(run: LoggedRun, start: int, window: int | None) -> Iterator[RateCheck]:
    """Yield a check of each line of a run that began at step `start`; `window` is from `_log_window`.

    Smoothing goes on from the recomputed rate before, so that a false rate does not make the next look false; where
    that one could not be checked, from the printed rate.
    """
    by_end = _samples_per_step(run, start)
    # No whole number: the last steps have no line, and are at most as many as the rest.
    size = run.start.global_batch_size if run.start else by_end if by_end.is_integer() else by_end / 2
    moment = MOMENT_S / max(size, 1)  # that is allowed between readings of the clock, seconds per sample of a step
    last_step, last_time, last_rounding = start, 0.0, 0.0
    weight, past, past_error = 1.0, 0.0, 0.0  # of the window's rate; the rate before, and its error
    for line in run.lines:
        global_rate = _global_rate(line) if line.global_step > start else math.nan
        steps, time = line.global_step - last_step, (line.global_step - start) / global_rate
        rounding = time * LAST_DIGIT / 2 / global_rate
        seconds, error = time - last_time, rounding + last_rounding + moment  # NaN after a line that tells no time
        # The first line of an unknown log window need not be the first of its run, nor the second be the next.
        most = window or (0 if line is run.lines[0] else run.lines[0].global_step)
        is_cut = line.global_step in run.after_gap or steps > most
        rate = explained = agrees = None
        if seconds > error and not is_cut:
            rate = weight * steps / seconds + (1 - weight) * past
            explained = weight * steps * error / seconds / (seconds - error) + (1 - weight) * past_error + LAST_DIGIT
            difference = abs(line.rate - rate)
            agrees = difference <= explained * (1 + 1e-9)
            past, past_error = rate, min(explained, difference + LAST_DIGIT)
        else:
            agrees = False if math.isnan(time) or seconds < -error else None
            past, past_error = line.rate, LAST_DIGIT
        yield RateCheck(line=line, recomputed_rate=rate, explained=explained, agrees=agrees)
        weight, last_step, last_time, last_rounding = SMOOTHING, line.global_step, time, rounding


def _global_rate(line: LogLine) -> float:
    """Return the GlobalRate of a line; NaN at step 0, or far beyond what can be, where products of times overflow."""
    return line.global_rate if line.global_step and 1e-60 < line.global_rate < 1e60 else math.nan


def _log_window(run: LoggedRun) -> int | None:
    """Return the usual number of steps between two lines, of equals the largest; None where the lines leave it open.

    The last lines can be closer, and so can be the first after a known start.
    """
    steps = [later.global_step - earlier.global_step for earlier, later in pairwise(run.lines)]
    if len(steps) > 1:
        return max(statistics.multimode(steps[:-1]))
    return max([run.lines[0].global_step - run.start.first_step + 1, *steps]) if run.start else None
