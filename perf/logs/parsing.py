"""Training logs read: the formats of known stacks (formats.toml), or a pattern of the user's; lines; whole runs."""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, TextIO

import msgspec
from msgspec import Struct
from msgspec.structs import fields

from perf.errors import DataError
from perf.logs.runlog import AnyLine, EndLine, EvaluationLine, LoggedRun, LogLine, RefusedStart, StartLine

LONGEST_LINE = 2**20  # characters of a line that are read; a longer line counts as damaged

_KINDS: dict[str, Callable[..., AnyLine]] = {
    "refused": RefusedStart,
    "start": StartLine,
    "evaluation": EvaluationLine,
    "step": LogLine,
    "end": EndLine,
}
# What stands for parts of patterns. Possessive quantifiers (++, *+, ?+) never give back what they took.
_PARTS = {
    "<number>": r"[-+]?+(?i:(?:\d++(?:\.\d*+)?+|\.\d++)(?:e[-+]?+\d++)?+|nan|inf)",
    "<count>": r"\d{1,15}+",
    "<before>": r"(?<![\w.])",  # whatever stands before a line, it must not run into it
    "<after>": r"(?![\w.])",
}

_RANK = re.compile(r"\W*+(?:rank|default)\s?+\d++|\s*+\d++:(?=\s)")  # as torchrun and srun --label put it before a line
_COLOUR = re.compile(r"\x1b\[[0-9;?]*+[A-Za-z]")


class Format(Struct, frozen=True, kw_only=True):
    """What the lines of one stack look like."""

    name: str
    patterns: Mapping[str, re.Pattern[str]]  # by what a line says, in the order in which they are tried
    mark: re.Pattern[str] | None = None  # what only a whole line may have
    once: re.Pattern[str] | None = None  # what a line may have once

    def parse(self, text: str, *, number: int = 0) -> AnyLine | None:
        """Return what a line says, as `parse_line`; `number` is the step of a line that does not say its own."""
        kind, match = next(((k, m) for k, p in self.patterns.items() if (m := p.search(text))), ("", None))
        several, mark = match and self.once and len(self.once.findall(text)) > 1, match is None and self.mark
        if several or (mark and mark.search(text)):
            raise ValueError(f"looks like a line of a training log but is not one whole line: {text[:120]!r}")
        if match is None:
            return None
        found = {name: _value(name, said) for name, said in match.groupdict().items() if said is not None}
        if "step_ms" in found:
            found["step_s"] = found.pop("step_ms") / 1e3
        if kind == "step":
            found.setdefault("global_step", number)
        if kind == "end" and "rate" in found:
            found["samples"] = round(found.pop("rate") * found["seconds"])
        return _KINDS[kind](**found)


def _value(name: str, said: str) -> int | float | bool:
    if name == "has_tail":
        return True
    is_count = name in ("samples", "batch") or name.endswith(("_step", "_steps", "_size"))
    return int(said) if is_count else float(said.replace(",", ""))


def _compiled(pattern: str | Sequence[str]) -> re.Pattern[str]:
    text = pattern if isinstance(pattern, str) else "".join(pattern)
    for name, part in _PARTS.items():
        text = text.replace(name, part)
    return re.compile(text, re.ASCII)


def _known() -> dict[str, Format]:
    """Return the formats of formats.toml, by name."""
    found = {}
    for name, table in tomllib.loads(files("perf.logs").joinpath("formats.toml").read_text(encoding="utf-8")).items():
        patterns = {kind: _compiled(table[kind]) for kind in _KINDS if kind in table}
        mark = _compiled(table["mark"])
        once = _compiled(table["once"]) if "once" in table else mark
        found[name] = Format(name=name, patterns=patterns, mark=mark, once=once)
    return found


FORMATS = _known()


def find_format(text: str) -> Format:
    """Return the format of a name, or of a pattern of a step line: groups named after the fields of a `LogLine`.

    Raises:
        ValueError: it is neither.
    """
    if text in FORMATS:
        return FORMATS[text]
    known = [field.name for field in fields(LogLine) if field.name != "has_tail"]
    names = f"one of {', '.join(FORMATS)}, or a pattern with a group loss, such as 'step (?P<global_step>\\d+) loss "
    try:
        pattern = _compiled(text)
    except re.error as error:
        raise ValueError(f"format {text!r}: is no regular expression ({error}); {names}(?P<loss>\\S+)'") from None
    if odd := [name for name in pattern.groupindex if name not in known]:
        raise ValueError(f"format {text!r}: has a group {odd[0]}, and groups are {', '.join(known)}")
    if "loss" not in pattern.groupindex:
        raise ValueError(f"format {text!r}: is {names}(?P<loss>\\S+)'")
    return Format(name=text, patterns={"step": pattern})


def parse_line(text: str, form: Format = FORMATS["cerebras"], *, number: int = 0) -> AnyLine | None:
    """Return what one line of a log says, or None for a line that says nothing about training steps.

    Timestamps, levels, device prefixes, colours and trailing fields are ignored. `number` is the step of a line whose
    format does not say it.

    Raises:
        ValueError: the line has the marks of a step, evaluation or end line but is not a whole one, or is more than
            one, or is longer than `LONGEST_LINE`, or says a number that is none.
    """
    if len(text) > LONGEST_LINE:
        raise ValueError(f"longer than {LONGEST_LINE:,} characters, so it was not read: {text[:120]!r}")
    return form.parse(_COLOUR.sub("", text).strip(), number=number)


def rank_of(text: str) -> str:
    """Return what stands before a line to say which rank has printed it, or nothing."""
    match = _RANK.match(_COLOUR.sub("", text))
    return match[0].strip() if match else ""


class DamagedLine(Struct, frozen=True, kw_only=True):
    """A line of a log, counted from 1, that has the marks of a training log but cannot be read, and why."""

    number: int
    reason: str


class LogReader:
    """Reads a log line by line. The first format of which there is a line is the log's. Only one run is kept."""

    def __init__(self, formats: Iterable[Format] = FORMATS.values()) -> None:
        self.current: LoggedRun | None = None  # the run whose lines are read
        self._formats = list(formats)
        self._previous: AnyLine | None = None
        self._number, self._has_gap = 0, False

    def read(self, text: str) -> Iterator[LoggedRun | DamagedLine]:
        """Read the next line; yield the run that ended before it, or the line if it is damaged."""
        self._number += 1
        last = self.current.last_line if self.current and not self.current.end else None
        number = last.global_step + 1 if last else 1
        try:
            each = ((form, parse_line(text, form, number=number)) for form in self._formats)
            form, found = next((pair for pair in each if pair[1]), (self._formats[0], None))
        except ValueError as error:
            yield DamagedLine(number=self._number, reason=str(error))
            self._has_gap = True
            return
        if found is None or found == self._previous:
            return
        self._formats, self._previous = [form], found
        rank = rank_of(text)
        if isinstance(found, LogLine) and self.current and self.current.repeats(found, rank):
            self.current.num_repeated += 1
            return
        if self.current and self.current.ends_before(found):
            yield self.current
            self.current = None
        if self.current is None:
            self.current = LoggedRun(first_line_number=self._number, format=form.name, rank=rank)
        self.current.add(found, after_gap=self._has_gap)
        self._has_gap &= isinstance(found, EvaluationLine)


def parse_log(lines: Iterable[str], formats: Iterable[Format] = FORMATS.values()) -> Iterator[LoggedRun | DamagedLine]:
    """Yield every run of a log once its last line is known, and every damaged line as it comes.

    A new run begins after an end line or a refusal, and where the step falls. A step that is there already (another
    rank, another log handler) counts once.
    """
    reader = LogReader(formats)
    for text in lines:
        yield from reader.read(text)
    if reader.current:
        yield reader.current


def read_lines(stream: TextIO) -> Iterator[str]:
    """Yield the lines of `stream`; of one longer than `LONGEST_LINE`, its beginning, one character over the limit."""
    while piece := stream.readline(LONGEST_LINE + 1):
        yield piece
        while len(piece) > LONGEST_LINE and not piece.endswith("\n"):
            piece = stream.readline(LONGEST_LINE + 1)


class _State(Struct):
    """A ``trainer_state.json`` of Hugging Face's Trainer, as far as it is read."""

    log_history: list[dict[str, Any]]


def read_trainer_state(text: str) -> LoggedRun | None:
    """Return the run that a ``trainer_state.json`` tells of; None where the text is none, or tells of no step.

    Raises:
        DataError: it is one, and has something else than numbers.
    """
    try:
        history = msgspec.json.decode(text, type=_State).log_history
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    try:
        run = LoggedRun(first_line_number=1, format="hf-trainer")
        for entry in history:
            if "loss" in entry:
                line = {"global_step": entry["step"], "loss": entry["loss"], "epoch": entry.get("epoch")}
                run.add(msgspec.convert(line, LogLine, strict=False), after_gap=False)
            run.num_evaluation_lines += "eval_loss" in entry
            if "train_runtime" in entry:
                seconds = float(entry["train_runtime"])
                run.end = EndLine(samples=round(seconds * float(entry["train_samples_per_second"])), seconds=seconds)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"trainer_state.json: log_history is damaged: {error!r}; give the file that the Trainer wrote"
        ) from None
    return run if run.lines else None
