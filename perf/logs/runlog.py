"""The log of a run: its rates, its lines formatted, and what is kept of a run that was found in a log."""

import math
from typing import Self

import msgspec
from msgspec import Struct

SMOOTHING = 0.6  # weight of the newest log window in the smoothed rate; the rest is the previous rate's

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
        """Return the rates once the log window up to `mark` has ended. Raises ValueError: the clock did not advance."""
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
    """What this project prints before the lines of a run; other logs say a batch size at most."""

    global_batch_size: int
    first_step: int = 0
    last_step: int = 0

    def __str__(self) -> str:
        return f"Global batch size {self.global_batch_size}, steps {self.first_step} to {self.last_step}"


class LogLine(Struct, frozen=True, kw_only=True):
    """One step line of a run's log. What a format does not say is NaN or None."""

    global_step: int
    loss: float
    # rate, global_rate: of the log window, smoothed or not, and since the run began; samples/sec
    rate: float = math.nan
    global_rate: float = math.nan
    # whether it says how much time remains, as newer releases of the reference stack do; `str` leaves that out
    has_tail: bool = False
    step_s: float | None = None  # seconds of a step
    tokens_per_sec: float | None = None  # of one device
    samples: int | None = None  # completed since training began
    global_batch_size: int | None = None
    epoch: float | None = None  # where the line does not say its step
    learning_rate: float | None = None

    def __str__(self) -> str:
        return (
            f"Step={self.global_step}, Loss={self.loss:.5f}, Rate={self.rate:.2f} samples/sec, "
            f"GlobalRate={self.global_rate:.2f} samples/sec"
        )


class EvaluationLine(Struct, frozen=True, kw_only=True):
    """One line of an evaluation. What a format does not say is None."""

    global_step: int | None = None
    batch: int | None = None
    loss: float | None = None


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


class LoggedRun(Struct, kw_only=True):
    """One run found in a log."""

    first_line_number: int  # where in the log it begins, from 1
    format: str = "cerebras"  # the name of the format its lines have, or the user's pattern
    rank: str = ""  # the rank that its first step line names, such as "rank0"
    start: StartLine | None = None  # what was said before it, if anything
    lines: list[LogLine] = []  # its step lines, in order; the first `MOST_LINES`
    last_line: LogLine | None = None  # its last step line, also where that is not kept
    num_left_out: int = 0  # how many step lines are not kept
    num_evaluation_lines: int = 0  # how many lines of evaluations stand among them
    num_repeated: int = 0  # how many lines say what it has already, as of other ranks
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

    def repeats(self, found: AnyLine, rank: str) -> bool:
        """Tell whether a line says again what is here: another rank prints it, or another handler."""
        last = self.last_line
        if self.end or last is None or not isinstance(found, LogLine):
            return self.end is not None and isinstance(found, EndLine)
        if found.epoch is not None:  # whose line does not say the step
            return rank != self.rank and msgspec.structs.replace(found, global_step=last.global_step) == last
        return found.global_step == last.global_step or (found.global_step < last.global_step and rank != self.rank)

    def ends_before(self, found: AnyLine) -> bool:
        """Tell whether `found` belongs to another run."""
        if isinstance(found, LogLine) and self.last_line:
            is_next = (found.epoch or 0.0) < (self.last_line.epoch or 0.0)
            return bool(self.end) or is_next or found.global_step < self.last_line.global_step
        return bool(self.end or self.refused or isinstance(found, StartLine | RefusedStart))
