"""Whether the rates of a logged run agree with each other, from nothing but its lines.

With ``GlobalRate = samples / seconds`` the time of every line follows from its step, and a batch size cancels out of
every rate, so steps stand in for samples: times here are seconds per sample of a step. What the lines do not tell is
the step the run began at. It is searched for: 0, or up to one log window before the first line (a resumed run).

A tracker reads the clock for Rate, again for GlobalRate, and again for the total: the times differ by moments.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from perf.logs.rates import LAST_DIGIT, MOMENT_S, SMOOTHING
from perf.logs.runlog import EndLine, LoggedRun, LogLine
from perf.logs.starts import Gap, find_start, gaps, is_possible, log_window


@dataclass(frozen=True, kw_only=True, slots=True)
class RateCheck:
    """A printed rate beside its recomputation."""

    line: LogLine  # the line that was checked
    # samples/sec; None where it does not follow from the lines there are: one before is missing, or their printed
    # decimals leave no time between the two
    recomputed_rate: float | None = None
    # how much of a difference the printed decimals and the moments between readings of the clock can explain,
    # samples/sec; only the decimals where the batch size is not known
    explained: float | None = None
    agrees: bool | None = None  # whether the difference is no more than that; None where it is unknown
    problem: str = ""  # what is wrong with the line, in words; empty where nothing is

    def as_json(self) -> dict[str, Any]:
        """Return the check as JSON values, not all of them finite; rates in samples/sec."""
        printed = {name: getattr(self.line, name) for name in ("global_step", "loss", "rate", "global_rate")}
        return printed | {name: getattr(self, name) for name in ("recomputed_rate", "explained", "agrees")}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunAudit:
    """What the audit of one run found."""

    run: LoggedRun  # the run that was audited
    start_step: int = 0  # the step that `checks` assume its timed region began at
    start_is_certain: bool = False  # whether no other start fits the lines as well
    checks: list[RateCheck] = field(default_factory=list)  # one for each step line that was kept
    # samples per step, as the log says, or from the end line and `start_step`; None where they do not tell
    global_batch_size: int | None = None
    problems: list[str] = field(default_factory=list)  # what does not fit together, in words
    notes: list[str] = field(default_factory=list)  # what could not be checked, and what needs no mending, in words

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
    start_step, is_certain = find_start(run)
    num_steps = run.last_line.global_step - start_step
    samples = run.end.samples if run.end and num_steps > 0 else 0
    by_end = samples // num_steps if samples and samples % num_steps == 0 else None
    size = run.start.global_batch_size or None if run.start else by_end
    # Samples that make no whole number for each step: the last steps have no line, and are at most as many as the rest.
    least_size = size or samples / 2 / max(num_steps, 1)
    moment = MOMENT_S / least_size if least_size else None
    audit = RunAudit(
        run=run,
        start_step=start_step,
        start_is_certain=is_certain,
        checks=_checks(run, start_step, moment),
        global_batch_size=size,
    )
    _judge_checks(audit)
    if run.end:
        _check_total(audit, run.end, run.last_line)
    if by_end not in (None, size):
        audit.problems.append(f"its end line makes {by_end} samples a step, and its start {size}")
    return audit


def _judge_checks(audit: RunAudit) -> None:
    """Add the problems of the checks, and say once for the run what the checks have in common."""
    run, checks, notes = audit.run, audit.checks, audit.notes
    if unsure := sum(check.recomputed_rate is not None and check.agrees is None for check in checks):
        notes.append(
            f"{unsure} of its rates differ by more than rounding explains; whether the moments between readings of the "
            "clock explain it depends on the batch size, which the log does not give"
        )
    problems = [check.problem for check in checks if check.problem]
    if problems and any(line.has_tail for line in run.lines):
        checks[:] = [replace(check, agrees=None, problem="") if check.problem else check for check in checks]
        notes.append(
            f"{len(problems)} of its {len(checks)} rates do not follow the published smoothing; its lines end in a "
            "remaining time, and the releases that print one smooth in another way"
        )
    else:
        audit.problems.extend(problems)
    if all(check.agrees is None for check in checks):
        notes.append("none of its rates could be checked")
    if run.num_left_out:
        notes.append(f"only its first {len(checks):,} step lines were checked; {run.num_left_out:,} more were left out")


def _checks(run: LoggedRun, start_step: int, moment: float | None) -> list[RateCheck]:
    """Check every line of a run that began at `start_step`.

    Smoothing goes on from the recomputed rate before, so that a false rate does not make the next look false; where
    that one could not be checked, from the printed rate.

    Args:
        run: a run with step lines.
        start_step: from `find_start`.
        moment: what is allowed between readings of the clock, seconds per sample of a step; None where it is unknown.
    """
    window = log_window(run)
    checks: list[RateCheck] = []
    before: tuple[float, float] | None = None  # the rate before and its error
    for line, gap in gaps(run, start_step, window):
        check = RateCheck(line=line)
        if not is_possible(line, start_step=start_step) or (
            gap and gap.seconds < -gap.rounding - (MOMENT_S if moment is None else moment)
        ):
            problem = f"Step={line.global_step}: GlobalRate={line.global_rate} cannot be, after the lines before it"
            check = RateCheck(line=line, problem=problem)
        elif gap and gap.is_window:
            check = _check(line, gap, moment, before)
            if window is None and not checks and check.agrees is False:
                check = RateCheck(line=line)  # it need not be the first of its run
        before = (line.rate, LAST_DIGIT)
        if check.recomputed_rate is not None and check.explained is not None and check.agrees is not None:
            before = (check.recomputed_rate, check.explained)
        checks.append(check)
    return checks


def _check(line: LogLine, gap: Gap, moment: float | None, before: tuple[float, float] | None) -> RateCheck:
    """Compare a line's Rate with what one log window makes of the rate before, or with the window's rate alone."""
    weight, (past, past_error) = (1.0, (0.0, 0.0)) if before is None else (SMOOTHING, before)

    def explained_by(moment: float) -> float:
        error = gap.rounding + moment
        if gap.seconds <= error:
            return math.inf
        of_window = weight * gap.steps * error / gap.seconds / (gap.seconds - error)
        return float(of_window + (1 - weight) * past_error + LAST_DIGIT)

    explained = explained_by(moment or 0.0)
    if explained == math.inf:
        return RateCheck(line=line)
    rate = weight * gap.steps / gap.seconds + (1 - weight) * past
    difference, problem = abs(line.rate - rate), ""
    agrees: bool | None = difference <= explained * (1 + 1e-9)
    if not agrees and moment is None and difference <= explained_by(MOMENT_S):
        agrees = None
    if agrees is False:
        problem = (
            f"Step={line.global_step}: Rate={line.rate:.2f} printed, {rate:.2f} recomputed "
            f"(rounding and the moments between readings of the clock explain {explained:.2f})"
        )
    return RateCheck(line=line, recomputed_rate=rate, explained=explained, agrees=agrees, problem=problem)


def _check_total(audit: RunAudit, end: EndLine, last: LogLine) -> None:
    """Add what is wrong with the total time, and what is to be said about it."""
    size = audit.global_batch_size
    if not 0 < end.seconds < math.inf:
        audit.problems.append(f"Processed {end.samples} sample(s) in {end.seconds} seconds: the time must be positive")
    elif is_possible(last):
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
