"""Training logs read: the formats of known stacks (formats.toml), or a pattern of the user's; lines; whole runs."""

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import TextIO

from msgspec import Struct
from msgspec.structs import fields

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
    "<number>": r"[-+]?+(?i:(?:\d++(?:\.\d*+)?+|\.\d++)(?:e[-+]?+\d++)?+|nan|inf(?:inity)?+)",
    "<count>": r"\d{1,15}+",
    "<quote>": "['\"\u2018\u2019]",
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
        """Return what one line of a log says, or None for a line that says nothing about training steps.

        Timestamps, levels, device prefixes, colours and trailing fields are ignored. `number` is the step of a line
        that does not say its own. Raises ValueError: the line is marked as one of the log but is not one whole line, or
        is longer than `LONGEST_LINE`, or says a number that is none.
        """
        if len(text) > LONGEST_LINE:
            raise ValueError(f"longer than {LONGEST_LINE:,} characters, so it was not read: {text[:120]!r}")
        text = _COLOUR.sub("", text).strip()
        kind, match = next(((k, m) for k, p in self.patterns.items() if (m := p.search(text))), ("", None))
        several, mark = match and self.once and len(self.once.findall(text)) > 1, match is None and self.mark
        if several or (mark and mark.search(text)):
            raise ValueError(f"looks like a line of a training log but is not one whole line: {text[:120]!r}")
        if match is None:
            return None
        found = {name: _value(name, said) for name, said in match.groupdict().items() if said is not None}
        if "step_ms" in found:
            found["step_s"] = found.pop("step_ms") / 1e3
        if "steps_per_sec" in found:
            found["step_s"] = 1 / (found.pop("steps_per_sec") or math.inf)
        if "global_step" in found:  # then nothing need be made of the epoch
            found.pop("epoch", None)
        elif kind == "step":
            found["global_step"] = number
        if kind == "end" and "rate" in found:
            found["samples"] = _value("samples", f"{found.pop('rate') * found['seconds']:.0f}")
        return None if kind == "step" and "loss" not in found else _KINDS[kind](**found)


def _value(name: str, said: str) -> int | float | bool:
    if name == "has_tail":
        return True
    is_count = name in ("samples", "batch") or name.endswith(("_step", "_steps", "_size"))
    text = said.replace(",", "")
    if is_count and not re.fullmatch(r"\d{1,15}", text, re.ASCII):
        raise ValueError(f"{name} is no whole number of at most 15 digits: {said[:40]!r}")
    return int(text) if is_count else float(text)


def _compiled(pattern: str | Sequence[str]) -> re.Pattern[str]:
    text = pattern if isinstance(pattern, str) else "".join(pattern)
    for name, part in _PARTS.items():
        text = text.replace(name, part)
    # Whatever stands before a text, and the text: not beyond a brace, nor beyond the next "iteration 5".
    text = re.sub(r"<upto ([^>]+)>", r"(?:(?!\1|iteration\\s++\\d)[^{}])*+\1", text)
    return re.compile(text, re.ASCII)


def _known(name: str, table: Mapping[str, str | Sequence[str]]) -> Format:
    found = {part: _compiled(table[part]) for part in (*_KINDS, "mark", "once") if part in table}
    mark = found.pop("mark")
    return Format(name=name, once=found.pop("once", mark), mark=mark, patterns=found)


_TABLES = tomllib.loads(files("perf.logs").joinpath("formats.toml").read_text(encoding="utf-8"))
FORMATS = {name: _known(name, table) for name, table in _TABLES.items()}
parse_line = FORMATS["cerebras"].parse  # a line of this project, or of the reference stack


def find_format(text: str) -> Format:
    """Return the format of a name, or of a pattern of a step line: groups named after the fields of a `LogLine`.

    Raises ValueError: it is neither.
    """
    if text in FORMATS:
        return FORMATS[text]
    known = [field.name for field in fields(LogLine) if field.name != "has_tail"]
    needed = f"{', '.join(FORMATS)} or a pattern like 'step (?P<global_step>\\d+) loss (?P<loss>\\S+)' is needed"
    try:
        pattern = _compiled(text)
    except re.error as error:
        raise ValueError(f"format {text!r}: is no regular expression ({error}); {needed}") from None
    groups = pattern.groupindex.keys()
    if "loss" not in groups or not groups <= {*known}:
        found = f"has the groups {', '.join(groups)}" if groups else "has no group"
        raise ValueError(f"format {text!r}: {found}; {needed}; loss must be one, and others can be {', '.join(known)}")
    return Format(name=text, patterns={"step": pattern})


def rank_of(text: str, form: Format) -> str:
    """Return what stands before a line to say which rank has printed it, or nothing: a number may be the line's own."""
    text = _COLOUR.sub("", text)
    match = _RANK.match(text)
    if match is None or not any(one.search(text[match.end() :]) for one in (form.patterns["step"], form.mark) if one):
        return ""
    return match[0].strip()


class DamagedLine(Struct, frozen=True, kw_only=True):
    """A line of a log, counted from 1, that has the marks of a training log but cannot be read, and why."""

    number: int
    reason: str


class LogReader:
    """Reads a log line by line. The first format of which there is a line is the log's. Only one run is kept.

    A new run begins after an end line or a refusal, and where the step falls. A step that is there already (another
    rank, another log handler) counts once.
    """

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
            each = ((form, form.parse(text, number=number)) for form in self._formats)
            form, found = next((pair for pair in each if pair[1]), (self._formats[0], None))
        except ValueError as error:
            yield DamagedLine(number=self._number, reason=str(error))
            self._has_gap = True
            return
        if found is None or found == self._previous:
            return
        self._formats, self._previous = [form], found
        rank = rank_of(text, form)
        if self.current and self.current.repeats(found, rank):
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
    """Yield every run of a log once its last line is known, and every damaged line as it comes."""
    reader = LogReader(formats)
    for text in lines:
        yield from reader.read(text)
    if reader.current:
        yield reader.current


def read_lines(stream: TextIO) -> Iterator[str]:
    """Yield the lines of `stream`; of one longer than `LONGEST_LINE`, its beginning, one character over the limit.

    Opened with universal newlines, a carriage return ends a line, too, as between the states of a progress bar.
    """
    while piece := stream.readline(LONGEST_LINE + 1):
        yield piece
        while len(piece) > LONGEST_LINE and not piece.endswith("\n"):
            piece = stream.readline(LONGEST_LINE + 1)


def history_lines(text: str) -> list[str]:
    """Return what a ``trainer_state.json`` of Hugging Face's Trainer tells, as lines; none if it is none."""
    try:
        history = json.loads(text)["log_history"]
        # The loss comes first, as it is printed: so what is no whole entry is told as damaged.
        return [json.dumps({name: entry[name] for name in sorted(entry, key="loss".__ne__)}) for entry in history]
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
