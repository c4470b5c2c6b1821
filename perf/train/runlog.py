"""The log of a run: its lines formatted, and logs found in the wild parsed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_NUMBER = r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf)"
_COUNT = r"\d{1,15}"
_BEFORE = r"(?<![\w.])"  # whatever stands before a line, it must not run into it
_AFTER = r"(?![\w.])"
_STEP_LINE = re.compile(
    rf"{_BEFORE}Step=(?P<step>{_COUNT}), Loss=(?P<loss>{_NUMBER}), "
    rf"Rate=(?P<rate>{_NUMBER}) samples/sec, GlobalRate=(?P<global_rate>{_NUMBER}) samples/sec{_AFTER}",
    re.ASCII | re.IGNORECASE,
)
_END_LINE = re.compile(
    rf"{_BEFORE}Processed (?P<samples>{_COUNT}) sample\(s\) in (?P<seconds>{_NUMBER}) seconds\.",
    re.ASCII | re.IGNORECASE,
)
_START_LINE = re.compile(
    rf"{_BEFORE}Global batch size (?P<size>{_COUNT}), steps (?P<first>{_COUNT}) to (?P<last>{_COUNT})\b", re.ASCII
)
_REFUSED_LINE = re.compile(
    rf"Initial global step (?P<step>{_COUNT}) already exceeds max step (?P<max>{_COUNT})\.", re.ASCII
)
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_EVALUATION = re.compile(r"\|\s*Eval\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class StartLine:
    """What this project prints before the lines of a run; other logs have none."""

    global_batch_size: int
    first_step: int
    last_step: int

    def __str__(self) -> str:
        return f"Global batch size {self.global_batch_size}, steps {self.first_step} to {self.last_step}"


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


AnyLine = StartLine | LogLine | EndLine | RefusedStart


def parse_line(text: str) -> AnyLine | None:
    """Return what one line of a log says, or None for a line that says nothing about training steps.

    Timestamps, levels, device prefixes, colours and trailing fields are ignored, and so are lines of an evaluation.

    Raises:
        ValueError: the line has the marks of a step or end line but is not a whole one, or is more than one.
    """
    text = _COLOUR.sub("", text).strip()
    if match := _REFUSED_LINE.search(text):
        return RefusedStart(global_step=int(match["step"]), max_steps=int(match["max"]))
    if match := _START_LINE.search(text):
        return StartLine(
            global_batch_size=int(match["size"]), first_step=int(match["first"]), last_step=int(match["last"])
        )
    is_step = "Step=" in text and ("Loss=" in text or "Rate=" in text)
    is_end = "Processed " in text and " sample(s)" in text
    if not is_step and not is_end:
        return None
    match = _STEP_LINE.search(text) or _END_LINE.search(text)
    if match is None or text.count("Step=") + text.count("Processed ") > 1:
        raise ValueError(f"looks like a line of a training log but is not one whole line: {text[:120]!r}")
    if _EVALUATION.search(text, 0, match.start()):
        return None
    if match.re is _END_LINE:
        return EndLine(samples=int(match["samples"]), seconds=float(match["seconds"]))
    return LogLine(
        global_step=int(match["step"]),
        loss=float(match["loss"]),
        rate=float(match["rate"]),
        global_rate=float(match["global_rate"]),
    )


@dataclass(kw_only=True, slots=True)
class LoggedRun:
    """One run found in a log.

    Attributes:
        first_line_number: where in the log it begins, from 1.
        start: what was said before it, if anything.
        lines: its step lines, in order.
        after_gap: the steps of those lines before which a line was damaged.
        end: its end line, if it got there.
        refused: its refusal to start, which then is all there is of it.
    """

    first_line_number: int
    start: StartLine | None = None
    lines: list[LogLine] = field(default_factory=list)
    after_gap: set[int] = field(default_factory=set)
    end: EndLine | None = None
    refused: RefusedStart | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedLog:
    """Every run of a log, and every line (number, reason) that was damaged."""

    runs: list[LoggedRun]
    damaged: list[tuple[int, str]]


def parse_log(lines: Iterable[str]) -> ParsedLog:
    """Split a log into runs: a new one begins after an end line or a refusal, and where the step does not rise.

    A line that only repeats the one before it (two log handlers) counts once.
    """
    runs: list[LoggedRun] = []
    damaged: list[tuple[int, str]] = []
    current: LoggedRun | None = None
    previous: AnyLine | None = None
    gap = False
    for number, text in enumerate(lines, start=1):
        try:
            found = parse_line(text)
        except ValueError as error:
            damaged.append((number, str(error)))
            gap = True
            continue
        if found is None or found == previous:
            continue
        previous = found
        if current is None or _begins_a_run(found, current):
            runs.append(current := LoggedRun(first_line_number=number))
        match found:
            case StartLine():
                current.start = found
            case LogLine():
                current.lines.append(found)
                if gap:
                    current.after_gap.add(found.global_step)
            case EndLine():
                current.end = found
            case RefusedStart():
                current.refused = found
        gap = False
        if current.end or current.refused:
            current = None
    return ParsedLog(runs=runs, damaged=damaged)


def _begins_a_run(found: AnyLine, current: LoggedRun) -> bool:
    if isinstance(found, LogLine):
        return bool(current.lines) and found.global_step <= current.lines[-1].global_step
    return isinstance(found, StartLine | RefusedStart)
