"""The log of a run: its rates, its lines formatted, and logs found in the wild parsed."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Self, TextIO

from msgspec import Struct

SMOOTHING = 0.6  # weight of the newest log window in the smoothed rate; the rest is the previous rate's

# Possessive quantifiers (++, *+, ?+) never give back what they took: a search takes time linear in the text.
_NUMBER = r"[-+]?+(?i:(?:\d++(?:\.\d*+)?+|\.\d++)(?:e[-+]?+\d++)?+|nan|inf)"
_COUNT = r"\d{1,15}+"
_BEFORE = r"(?<![\w.])"  # whatever stands before a line, it must not run into it
_AFTER = r"(?![\w.])"
_COLOUR = re.compile(r"\x1b\[[0-9;?]*+[A-Za-z]")

LONGEST_LINE = 2**20  # characters of a line that are read; a longer line counts as damaged
MOST_LINES = 100_000  # step lines of a run that are kept, and so checked; the others are counted


class Mark(Struct, frozen=True, kw_only=True):
    """A sample count and the clock, read together once the device had finished."""

    samples: int  # training examples completed since the run's process started training
    time_s: float  # a monotonic clock, seconds


class Rates(Struct, frozen=True, kw_only=True):
    """The smoothed and the global rate at a mark. Immutable: `at` returns the rates of the next mark."""

    began: Mark  # where the timed region began
    latest: Mark  # the newest mark; at first it is `began`
    # samples/sec, smoothed over log windows: 0.6 x this window + 0.4 x the previous rate; the first window's rate
    # stands alone. NaN before the first window has ended.
    rate: float = math.nan

    def at(self, mark: Mark) -> Self:
        """Return the rates once the log window from the latest mark to `mark` has ended.

        Raises:
            ValueError: the clock did not advance.
        """
        window = _per_sec(self.latest, mark)
        rate = window if math.isnan(self.rate) else SMOOTHING * window + (1 - SMOOTHING) * self.rate
        return type(self)(began=self.began, latest=mark, rate=rate)

    @property
    def global_rate(self) -> float:
        """Samples/sec since the timed region began."""
        return _per_sec(self.began, self.latest)


def _per_sec(start: Mark, end: Mark) -> float:
    if end.time_s <= start.time_s:
        raise ValueError(f"the clock must advance between marks: {start.time_s} s, then {end.time_s} s")
    return (end.samples - start.samples) / (end.time_s - start.time_s)


class StartLine(Struct, frozen=True, kw_only=True):
    """What this project prints before the lines of a run; other logs have none."""

    global_batch_size: int
    first_step: int
    last_step: int

    def __str__(self) -> str:
        return f"Global batch size {self.global_batch_size}, steps {self.first_step} to {self.last_step}"


class LogLine(Struct, frozen=True, kw_only=True):
    """One step line of a run's log; rates in samples/sec.

    `has_tail`: it also says how much time remains, as newer releases of the reference stack do; `str` leaves that out.
    """

    global_step: int
    loss: float
    rate: float
    global_rate: float
    has_tail: bool = False

    def __str__(self) -> str:
        return (
            f"Step={self.global_step}, Loss={self.loss:.5f}, Rate={self.rate:.2f} samples/sec, "
            f"GlobalRate={self.global_rate:.2f} samples/sec"
        )


class EvaluationLine(Struct, frozen=True, kw_only=True):
    """One line of an evaluation; rates in samples/sec, `batch` None where the line does not name it."""

    global_step: int
    batch: int | None = None
    loss: float
    rate: float
    global_rate: float


class EndLine(Struct, frozen=True, kw_only=True):
    """The last line of a run's log: how many samples it processed in how many seconds."""

    samples: int
    seconds: float

    def __str__(self) -> str:
        return f"Processed {self.samples} sample(s) in {self.seconds:.9f} seconds."


class RefusedStart(Struct, frozen=True, kw_only=True):
    """A run that did not start because its checkpoint had already reached the target."""

    global_step: int
    max_steps: int


AnyLine = StartLine | LogLine | EvaluationLine | EndLine | RefusedStart

_FIGURES = (
    rf"Loss=(?P<loss>{_NUMBER}), Rate=(?P<rate>{_NUMBER}) samples/sec, "
    rf"GlobalRate=(?P<global_rate>{_NUMBER}) samples/sec{_AFTER}"
)
_FORMATS: dict[Callable[..., AnyLine], str] = {
    RefusedStart: rf"Initial global step (?P<global_step>{_COUNT}) already exceeds max step (?P<max_steps>{_COUNT})\.",
    StartLine: (
        rf"{_BEFORE}Global batch size (?P<global_batch_size>{_COUNT}), "
        rf"steps (?P<first_step>{_COUNT}) to (?P<last_step>{_COUNT})\b"
    ),
    EvaluationLine: (
        rf"\|\s*+(?i:eval)\b(?:(?!(?:Global)?Step=).){{0,1000}}+{_BEFORE}"
        rf"(?:Global)?Step=(?P<global_step>{_COUNT}), (?:Batch=(?P<batch>{_COUNT}), )?{_FIGURES}"
    ),
    LogLine: rf"{_BEFORE}Step=(?P<global_step>{_COUNT}), {_FIGURES}(?P<has_tail>, (?:Loop)?TimeRemaining[=>])?",
    EndLine: rf"{_BEFORE}Processed (?P<samples>{_COUNT}) (?:training )?sample\(s\) in (?P<seconds>{_NUMBER}) seconds\.",
}
"""What a line may say: of the patterns that match, the first. A pattern's groups are named after the fields."""

_KINDS = {re.compile(pattern, re.ASCII): kind for kind, pattern in _FORMATS.items()}
_NO_COUNTS: dict[str, type] = {"loss": float, "rate": float, "global_rate": float, "seconds": float, "has_tail": bool}


def parse_line(text: str) -> AnyLine | None:
    """Return what one line of a log says, or None for a line that says nothing about training steps.

    Timestamps, levels, device prefixes, colours and trailing fields are ignored.

    Raises:
        ValueError: the line has the marks of a step, evaluation or end line but is not a whole one, or is more than
            one, or is longer than `LONGEST_LINE`.
    """
    if len(text) > LONGEST_LINE:
        raise ValueError(f"longer than {LONGEST_LINE:,} characters, so it was not read: {text[:120]!r}")
    text = _COLOUR.sub("", text).strip()
    match = next(filter(None, (pattern.search(text) for pattern in _KINDS)), None)
    is_step = "Step=" in text and ("Loss=" in text or "Rate=" in text)
    is_end = "Processed " in text and " sample(s)" in text
    if text.count("Step=") + text.count("Processed ") > 1 if match else is_step or is_end:
        raise ValueError(f"looks like a line of a training log but is not one whole line: {text[:120]!r}")
    if match is None:
        return None
    found = {name: said for name, said in match.groupdict().items() if said is not None}
    return _KINDS[match.re](**{name: _NO_COUNTS.get(name, int)(said) for name, said in found.items()})


class LoggedRun(Struct, kw_only=True):
    """One run found in a log."""

    first_line_number: int  # where in the log it begins, from 1
    start: StartLine | None = None  # what was said before it, if anything
    lines: list[LogLine] = []  # its step lines, in order; the first `MOST_LINES`
    last_line: LogLine | None = None  # its last step line, also where that is not kept
    num_left_out: int = 0  # how many step lines are not kept
    num_evaluation_lines: int = 0  # how many lines of evaluations stand among them
    after_gap: set[int] = set()  # the steps of those lines before which a line was damaged
    end: EndLine | None = None  # its end line, if it got there
    refused: RefusedStart | None = None  # its refusal to start, which then is all there is of it

    def add(self, found: AnyLine, *, after_gap: bool) -> None:
        """Add what the next line of the run says; `after_gap` where damaged lines stand before it."""
        if isinstance(found, LogLine):
            self.last_line = found
            if len(self.lines) == MOST_LINES:
                self.num_left_out += 1
                return
            self.lines.append(found)
            if after_gap:
                self.after_gap.add(found.global_step)
        elif isinstance(found, EvaluationLine):
            self.num_evaluation_lines += 1
        elif isinstance(found, StartLine):
            self.start = found
        elif isinstance(found, EndLine):
            self.end = found
        else:
            self.refused = found

    def ends_before(self, found: AnyLine) -> bool:
        """Tell whether `found` belongs to another run."""
        is_next = isinstance(found, LogLine) and self.last_line and found.global_step <= self.last_line.global_step
        return bool(self.end or self.refused or isinstance(found, StartLine | RefusedStart) or is_next)


class DamagedLine(Struct, frozen=True, kw_only=True):
    """A line of a log, counted from 1, that has the marks of a training log but cannot be read, and why."""

    number: int
    reason: str


def parse_log(lines: Iterable[str]) -> Iterator[LoggedRun | DamagedLine]:
    """Yield every run of a log once its last line is known, and every damaged line as it comes.

    A new run begins after an end line or a refusal, and where the step does not rise. A line that only repeats the
    one before it (two log handlers) counts once. Only the current run is kept in memory.
    """
    current: LoggedRun | None = None
    previous: AnyLine | None = None
    gap = False
    for number, text in enumerate(lines, start=1):
        try:
            found = parse_line(text)
        except ValueError as error:
            yield DamagedLine(number=number, reason=str(error))
            gap = True
            continue
        if found is None or found == previous:
            continue
        previous = found
        if current and current.ends_before(found):
            yield current
            current = None
        current = current or LoggedRun(first_line_number=number)
        current.add(found, after_gap=gap)
        gap = gap and isinstance(found, EvaluationLine)
    if current:
        yield current


def read_lines(stream: TextIO) -> Iterator[str]:
    """Yield the lines of `stream`; of one longer than `LONGEST_LINE`, its beginning, one character over the limit."""
    while piece := stream.readline(LONGEST_LINE + 1):
        yield piece
        while len(piece) > LONGEST_LINE and not piece.endswith("\n"):
            piece = stream.readline(LONGEST_LINE + 1)
