"""The log of a run: its lines formatted, logs found in the wild parsed, and their rates audited.

The audit needs no knowledge of the run beyond its lines: with ``GlobalRate = samples / seconds`` the time of
every line follows from its step, and a batch size would cancel out of every rate, so steps stand in for samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from perf.train.rates import SMOOTHING, Mark, Rates

_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)"
_STEP_LINE = re.compile(
    rf"(?:.*[|\s])?(?:Train Device=(?P<device>\S+), )?Step=(?P<step>\d+), Loss=(?P<loss>{_NUMBER}), "
    rf"Rate=(?P<rate>{_NUMBER}) samples/sec, GlobalRate=(?P<global_rate>{_NUMBER}) samples/sec(?:,.*)?"
)
_END_LINE = re.compile(r"(?:.*\s)?Processed (?P<samples>\d+) sample\(s\) in (?P<seconds>\d+\.?\d*) seconds\.")
_REFUSED_LINE = re.compile(r".*Initial global step (?P<step>\d+) already exceeds max step (?P<max>\d+)\..*")
_LOOKS_LIKE_ONE = re.compile(r"\bStep=\d.*\b(?:Loss|Rate)=|\bProcessed \d+ sample")

LAST_DIGIT = 0.01
"""The last printed digit of a rate, samples/sec. A printed rate may be off by it (rounded or truncated, clock read twice)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    """One step line of a run's log; rates in samples/sec."""

    global_step: int
    loss: float
    rate: float
    global_rate: float

    def __str__(self) -> str:
        return (
            f"Step={self.global_step}, Loss={self.loss:.5f}, Rate={self.rate:.2f} samples/sec, "
            f"GlobalRate={self.global_rate:.2f} samples/sec"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EndLine:
    """The last line of a run's log: how many samples it processed in how many seconds."""

    samples: int
    seconds: float

    def __str__(self) -> str:
        return f"Processed {self.samples} sample(s) in {self.seconds:.9f} seconds."


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedStart:
    """A run that did not start because its checkpoint had already reached the target."""

    global_step: int
    max_steps: int


def parse_line(text: str) -> LogLine | EndLine | RefusedStart | None:
    """Return what one line of a log says, or None for a line that says nothing about steps.

    Timestamps, levels, a device prefix and trailing fields are ignored.

    Raises:
        ValueError: the line begins like a step or end line but is not a whole one.
    """
    text = text.strip()
    if match := _STEP_LINE.fullmatch(text):
        return LogLine(
            global_step=int(match["step"]),
            loss=float(match["loss"]),
            rate=float(match["rate"]),
            global_rate=float(match["global_rate"]),
        )
    if match := _END_LINE.fullmatch(text):
        return EndLine(samples=int(match["samples"]), seconds=float(match["seconds"]))
    if match := _REFUSED_LINE.fullmatch(text):
        return RefusedStart(global_step=int(match["step"]), max_steps=int(match["max"]))
    if _LOOKS_LIKE_ONE.search(text):
        raise ValueError(f"looks like a line of a training log but is not a whole one: {text[:120]!r}")
    return None


@dataclass(kw_only=True, slots=True)
class LoggedRun:
    """One run found in a log: its step lines in order, its end line if it got there, or its refusal to start."""

    first_line_number: int
    lines: list[LogLine] = field(default_factory=list)
    end: EndLine | None = None
    refused: RefusedStart | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedLog:
    """Every run of a log, and every line (number, reason) that was damaged."""

    runs: list[LoggedRun]
    damaged: list[tuple[int, str]]


def parse_log(lines: Iterable[str]) -> ParsedLog:
    """Split a log into runs: a new one begins after an end line or a refusal, and where the step stops rising."""
    runs: list[LoggedRun] = []
    damaged: list[tuple[int, str]] = []
    current: LoggedRun | None = None
    for number, text in enumerate(lines, start=1):
        try:
            found = parse_line(text)
        except ValueError as error:
            damaged.append((number, str(error)))
            continue
        if found is None:
            continue
        restarts = isinstance(found, LogLine) and current and found.global_step <= current.lines[-1].global_step
        if current is None or restarts or isinstance(found, RefusedStart):
            runs.append(current := LoggedRun(first_line_number=number))
        if isinstance(found, LogLine):
            current.lines.append(found)
            continue
        if isinstance(found, EndLine):
            current.end = found
        else:
            current.refused = found
        current = None
    return ParsedLog(runs=runs, damaged=damaged)


@dataclass(frozen=True, kw_only=True, slots=True)
class RateCheck:
    """A printed rate beside its recomputation; `rounding` is what two printed decimals can explain (samples/sec)."""

    line: LogLine
    recomputed_rate: float
    rounding: float

    @property
    def agrees(self) -> bool:
        """Whether the printed rate differs from the recomputed one by no more than rounding explains."""
        return abs(self.line.rate - self.recomputed_rate) <= self.rounding


@dataclass(frozen=True, kw_only=True, slots=True)
class RunAudit:
    """What the audit of one run found.

    Attributes:
        run: the run that was audited.
        start_step: the step its timed region began at; 0 unless the lines only fit a resumed run.
        checks: one for each step line.
        global_batch_size: samples per step, from the end line; None without one.
        problems: what does not fit together, in words.
    """

    run: LoggedRun
    start_step: int
    checks: list[RateCheck]
    global_batch_size: int | None
    problems: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the audit as plain JSON values; rates in samples/sec."""
        return {
            "first_line_number": self.run.first_line_number,
            "start_step": self.start_step,
            "global_batch_size": self.global_batch_size,
            "lines": [
                {**asdict(c.line), "recomputed_rate": c.recomputed_rate, "rounding": c.rounding, "agrees": c.agrees}
                for c in self.checks
            ],
            "end": asdict(self.run.end) if self.run.end else None,
            "refused": asdict(self.run.refused) if self.run.refused else None,
            "problems": self.problems,
        }


def audit_run(run: LoggedRun) -> RunAudit:
    """Recompute each Rate of `run` from its GlobalRate column and compare the totals with the last GlobalRate."""
    if not run.lines:
        problems = [] if run.refused else ["an end line without step lines before it"]
        return RunAudit(run=run, start_step=0, checks=[], global_batch_size=None, problems=problems)
    start_step, checks, problems = _best_start(run.lines)
    problems += [
        f"Step={c.line.global_step}: Rate={c.line.rate:.2f} printed, {c.recomputed_rate:.2f} recomputed "
        f"(rounding explains {c.rounding:.2f})"
        for c in checks
        if not c.agrees
    ]
    global_batch_size = None
    if run.end is not None:
        steps = run.lines[-1].global_step - start_step
        global_batch_size, rest = divmod(run.end.samples, steps)
        if rest:
            problems.append(f"{run.end.samples} samples are not a whole number per step over {steps} steps")
            global_batch_size = None
        problems += _total_problem(run.end, run.lines[-1])
    return RunAudit(
        run=run, start_step=start_step, checks=checks, global_batch_size=global_batch_size, problems=problems
    )


def _best_start(lines: list[LogLine]) -> tuple[int, list[RateCheck], list[str]]:
    """Return the start step that fits the lines best: 0, or one log window before the first line (a resumed run)."""
    candidates = [0]
    if len(lines) > 1 and (resumed := lines[0].global_step - (lines[1].global_step - lines[0].global_step)) > 0:
        candidates.append(resumed)
    results = []
    for start in candidates:
        try:
            results.append((start, _rate_checks(lines, start), list[str]()))
        except ValueError as error:
            results.append((start, list[RateCheck](), [f"the rates cannot be true: {error}"]))
    return min(results, key=lambda result: (len(result[2]), sum(not check.agrees for check in result[1])))


def _rate_checks(lines: list[LogLine], start_step: int) -> list[RateCheck]:
    """Recompute the rates of `lines`; the rounding of every printed figure is carried through to first order.

    Raises:
        ValueError: the lines give times that do not advance.
    """
    rates = Rates.since(Mark(samples=start_step, time_s=0.0))
    checks: list[RateCheck] = []
    rounding = time_error = 0.0
    for line in lines:
        steps = line.global_step - start_step
        if line.global_rate <= 0 or steps <= 0:
            raise ValueError(f"Step={line.global_step}, GlobalRate={line.global_rate}: both must lie above their start")
        previous, previous_time_error = rates.latest, time_error
        mark = Mark(samples=line.global_step, time_s=steps / line.global_rate)
        rates = rates.at(mark)
        time_error = mark.time_s * LAST_DIGIT / 2 / line.global_rate
        window_s = mark.time_s - previous.time_s
        window_rate = (mark.samples - previous.samples) / window_s
        window_error = window_rate * (time_error + previous_time_error) / window_s
        rounding = SMOOTHING * window_error + (1 - SMOOTHING) * rounding if checks else window_error
        assert rates.rate is not None
        checks.append(RateCheck(line=line, recomputed_rate=rates.rate, rounding=rounding + LAST_DIGIT))
    return checks


def _total_problem(end: EndLine, last: LogLine) -> list[str]:
    if end.seconds <= 0:
        return [f"Processed {end.samples} sample(s) in {end.seconds} seconds: the time must be positive"]
    total_rate = end.samples / end.seconds
    if abs(total_rate - last.global_rate) <= 1.5 * LAST_DIGIT:
        return []
    return [
        f"{end.samples} samples in {end.seconds:.3f} s are {total_rate:.2f} samples/sec, "
        f"but the last GlobalRate is {last.global_rate:.2f}"
    ]
