"""Whether the rates of a logged run agree with each other, from nothing but its lines.

With ``GlobalRate = samples / seconds`` the time of every line follows from its step, and a batch size cancels out of
every rate, so steps stand in for samples. What the lines do not tell is the step the run began at. It is searched for:
0, or up to one log window before the first line (a resumed run).
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from perf.train.rates import SMOOTHING
from perf.train.runlog import EndLine, LoggedRun, LogLine

LAST_DIGIT = 0.01
"""The last printed digit of a rate, samples/sec: a printed rate may be off by it (rounded, truncated, clock read twice)."""

_MOST_STARTS = 2000
"""Start steps to try; a log window is rarely longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RateCheck:
    """A printed rate beside its recomputation.

    Attributes:
        line: the line that was checked.
        recomputed_rate: samples/sec; None where it does not follow from the lines there are: one before is missing, or
            their printed decimals leave no time between the two.
        rounding: how much of a difference the printed decimals can explain, samples/sec.
        agrees: whether the difference is no more than that; None where nothing could be recomputed.
    """

    line: LogLine
    recomputed_rate: float | None = None
    rounding: float | None = None
    agrees: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunAudit:
    """What the audit of one run found.

    Attributes:
        run: the run that was audited.
        start_step: the step that `checks` assume its timed region began at.
        start_is_certain: whether no other start fits the lines as well.
        checks: one for each step line.
        global_batch_size: samples per step, as the log says, or from the end line and `start_step`; None where they
            do not tell.
        problems: what does not fit together, in words.
    """

    run: LoggedRun
    start_step: int
    start_is_certain: bool
    checks: list[RateCheck]
    global_batch_size: int | None
    problems: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the audit as plain JSON values; rates in samples/sec, null for what is not a finite number."""
        return {
            "first_line_number": self.run.first_line_number,
            "start_step": self.start_step,
            "start_is_certain": self.start_is_certain,
            "global_batch_size": self.global_batch_size,
            "lines": [
                {
                    name: _finite(value)
                    for name, value in {**asdict(check.line), **asdict(check)}.items()
                    if name != "line"
                }
                for check in self.checks
            ],
            "end": {k: _finite(v) for k, v in asdict(self.run.end).items()} if self.run.end else None,
            "refused": asdict(self.run.refused) if self.run.refused else None,
            "problems": self.problems,
        }


def audit_run(run: LoggedRun) -> RunAudit:
    """Recompute each Rate of `run` from its GlobalRate column and compare the totals with the last GlobalRate."""
    if not run.lines:
        problem = ["an end line without step lines before it"] if run.end else []
        size = run.start.global_batch_size if run.start else None
        return RunAudit(
            run=run, start_step=0, start_is_certain=False, checks=[], global_batch_size=size, problems=problem
        )
    fits = [_fit(run, start) for start in _possible_starts(run)]
    best = min(fits, key=lambda fit: fit.misfits)  # the first of equals, and so 0 where it fits
    problems = [
        f"Step={check.line.global_step}: Rate={check.line.rate:.2f} printed, {check.recomputed_rate:.2f} recomputed "
        f"(rounding explains {check.rounding:.2f})"
        for check in best.checks
        if check.agrees is False
    ]
    problems += [
        f"Step={line.global_step}: GlobalRate={line.global_rate} cannot be, after the lines before it"
        for line in best.impossible
    ]
    if all(check.agrees is None for check in best.checks):
        problems.append("none of its rates could be checked")
    if run.end is not None:
        problems += _total_problem(run.end, run.lines[-1])
    if run.start and best.global_batch_size not in (None, run.start.global_batch_size):
        problems.append(
            f"its end line makes {best.global_batch_size} samples a step, and its start {run.start.global_batch_size}"
        )
    return RunAudit(
        run=run,
        start_step=best.start_step,
        start_is_certain=sum(fit.misfits == best.misfits for fit in fits) == 1,
        checks=best.checks,
        global_batch_size=run.start.global_batch_size if run.start else best.global_batch_size,
        problems=problems,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fit:
    """How the lines look if the run began at `start_step`."""

    start_step: int
    checks: list[RateCheck]
    impossible: list[LogLine]
    global_batch_size: int | None
    misfits: tuple[int, int]  # lines that disagree or cannot be; then whether the end line does not fit


def _possible_starts(run: LoggedRun) -> list[int]:
    """Return where the log says it began; else 0, then all steps within one window before the first line."""
    if run.start is not None:
        return [run.start.first_step - 1]
    first = run.lines[0].global_step
    window = _log_window(run) or first
    least = max(first - window, 0)
    return list(dict.fromkeys([0, least, *range(least, min(first, least + _MOST_STARTS))]))


def _log_window(run: LoggedRun) -> int | None:
    """Return the usual number of steps between two lines, of equals the largest.

    None where the lines do not tell: the only step between two lines can be shorter, if the second is the run's last.
    So can the last of several, and the first after a known start.
    """
    known = [] if run.start is None else [run.start.first_step - 1]
    steps = [later - earlier for earlier, later in pairwise([*known, *(line.global_step for line in run.lines)])]
    whole = steps[len(known) : -1]
    if not whole:
        return max(steps) if known else None
    return max(statistics.multimode(whole))


def _fit(run: LoggedRun, start_step: int) -> _Fit:
    window = _log_window(run)
    checks: list[RateCheck] = []
    impossible: list[LogLine] = []
    previous: tuple[int, float, float] | None = (start_step, 0.0, 0.0)  # step, time, error of the time
    for line in run.lines:
        steps = line.global_step - start_step
        if steps <= 0 or not 0 < line.global_rate < math.inf:
            impossible.append(line)
            checks.append(RateCheck(line=line))
            previous = None
            continue
        time = steps / line.global_rate  # seconds per sample of a batch: all that a ratio of rates needs
        time_error = time * LAST_DIGIT / 2 / line.global_rate
        check = RateCheck(line=line)
        seconds, error = (time - previous[1], time_error + previous[2]) if previous else (math.inf, 0.0)
        if seconds < -error:
            impossible.append(line)
        elif previous is not None and seconds > error and _is_one_window(run, line, previous[0], window):
            rate = (line.global_step - previous[0]) / seconds
            rounding = rate * error / (seconds - error)
            check = _check(line, rate, rounding, checks[-1] if checks else None)
            if window is None and not checks and check.agrees is False:
                check = RateCheck(line=line)  # it need not be the first of its run
        checks.append(check)
        previous = (line.global_step, time, time_error)
    size, rest = divmod(run.end.samples, run.lines[-1].global_step - start_step) if run.end and previous else (0, 0)
    disagreeing = sum(check.agrees is False for check in checks) + len(impossible)
    return _Fit(
        start_step=start_step,
        checks=checks,
        impossible=impossible,
        global_batch_size=size if size and not rest else None,
        misfits=(disagreeing, int(bool(rest))),
    )


def _is_one_window(run: LoggedRun, line: LogLine, previous_step: int, window: int | None) -> bool:
    """Tell whether a line closes one log window: no line before it is missing, at the head of the log or within."""
    return line.global_step not in run.after_gap and (window is None or line.global_step - previous_step <= window)


def _check(line: LogLine, window_rate: float, window_rounding: float, before: RateCheck | None) -> RateCheck:
    """Compare a line's Rate with what smoothing makes of the rate before.

    The rate before is the recomputed one, so that a false rate does not make the next look false; where nothing could
    be recomputed, it is the printed one.
    """
    rate, rounding = window_rate, window_rounding
    if before is not None:
        rate_before, rounding_before = before.line.rate, LAST_DIGIT
        if before.recomputed_rate is not None and before.rounding is not None:
            rate_before, rounding_before = before.recomputed_rate, before.rounding
        rate = SMOOTHING * window_rate + (1 - SMOOTHING) * rate_before
        rounding = SMOOTHING * window_rounding + (1 - SMOOTHING) * rounding_before
    rounding += LAST_DIGIT
    return RateCheck(line=line, recomputed_rate=rate, rounding=rounding, agrees=abs(line.rate - rate) <= rounding)


def _total_problem(end: EndLine, last: LogLine) -> list[str]:
    if not 0 < end.seconds < math.inf:
        return [f"Processed {end.samples} sample(s) in {end.seconds} seconds: the time must be positive"]
    total_rate = end.samples / end.seconds
    if abs(total_rate - last.global_rate) <= 1.5 * LAST_DIGIT:
        return []
    return [
        f"{end.samples} samples in {end.seconds:.3f} s are {total_rate:.2f} samples/sec, but the last GlobalRate is "
        f"{last.global_rate:.2f}: one of them is false, or the last steps have no line"
    ]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
