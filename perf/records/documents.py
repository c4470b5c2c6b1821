"""Files of ours: JSON from anywhere, read as data, refused where a field is not what it should be; written whole."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from perf.errors import BaselineError
from perf.records.fields import Count, Figure, Text, Word

SCHEMA = 2

ADVICE = "it was edited or damaged; restore it from git, or delete it and measure again"

_MOST_BYTES = 2**28
"""Far more than any session has: what is larger is something else, and is not read into memory."""

_MOST_DEPTH = 32
_MOST_DIGITS = 19
"""Of an integer in 64 bits."""

T = TypeVar("T")


class _Repeated(str):
    """Stands for an object that has this key twice."""

    __slots__ = ()


_FIGURES = ("min", "max", "mean", "stddev", "median", "iqr", "ops")
_Stats = msgspec.defstruct(
    "_Stats",
    [
        *((name, Figure) for name in _FIGURES),
        *(("outliers", Word), ("rounds", Count), ("iterations", Count), ("data", list[Figure], [])),
    ],
)
# pytest-benchmark merges the statistics over what it knows of the test, which they must not replace.
_OF_TEST = "name|fullname|group|params?|options|extra_info|path|source|cprofile|has_error"
_Figures = dict[Annotated[str, Meta(pattern=rf"^(?!({_OF_TEST})\Z)")], Figure]


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """What pytest-benchmark reads of a stored benchmark, and shows in its table."""

    name: Text
    fullname: Text
    stats: dict[str, Any]
    extra_info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            msgspec.convert(self.stats, _Stats)
            msgspec.convert({k: v for k, v in self.stats.items() if k not in ("outliers", "data")}, _Figures)
        except msgspec.ValidationError as error:
            raise ValueError(f"stats: {str(error).replace('$.', '')}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; nothing in it is executed.

    Raises:
        BaselineError: it is missing, empty, cut off, not JSON, holds NaN, names a key twice, or is no object.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise BaselineError(f"{path}: cannot be read ({error}); restore it or name another file") from None
    if len(content) > _MOST_BYTES:
        raise BaselineError(f"{path}: is larger than {_MOST_BYTES:,} bytes, and no result is; name another file")
    try:
        # Not msgspec's parser: of a key that is there twice it takes the last, and says nothing.
        found = json.loads(content.decode("utf-8"), parse_int=_integer, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise BaselineError(f"{path}: is not whole JSON ({error}); {ADVICE}") from None
    if problem := _value_problem(found):
        raise BaselineError(f"{path}: {problem}; {ADVICE}")
    if not isinstance(found, dict):
        raise BaselineError(f"{path}: holds a JSON {type(found).__name__}, and an object is needed; name another file")
    return found


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a file whole or not at all: a reader sees the one before or this one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def as_json(record: object) -> dict[str, Any]:
    """Return a record as JSON data; `decode` reads it back."""
    return msgspec.to_builtins(record, str_keys=True)  # type: ignore[no-any-return]  # a record is an object


def decode(document: Mapping[str, Any], kind: type[T], path: Path, key: str) -> T:
    """Return a document as a record.

    Args:
        document: what was read.
        kind: the record; of fields that it does not have, those under `key` are refused.
        path: the file, for the message.
        key: of the part that is ours.

    Raises:
        BaselineError: a field is missing, unknown or not what it should be, or of another version; the message names
            it.
    """
    version = document[key].get("schema") if isinstance(document[key], dict) else None
    if type(version) is int and version != SCHEMA:
        raise BaselineError(f"{path}: has schema {version}, this version reads {SCHEMA}; measure and promote again")
    try:
        found = msgspec.convert(document, kind, str_keys=True)
    except (msgspec.ValidationError, ValueError) as error:  # the first is one of the second since msgspec 0.21
        problem, _, where = str(error).rpartition(" - at ")
        where = where.replace("`", "").replace("$.", "") if problem else "the top"
        raise BaselineError(f"{path}: at {where}: {_short(problem or str(error))}; {ADVICE}") from None
    # Of dataclasses, msgspec ignores unknown fields.
    known = {where for where, _ in _values(as_json(found)[key])}
    if unknown := next((where for where, _ in _values(document[key]) if where not in known), None):
        raise BaselineError(f"{path}: at {_place((key, *unknown))}: is not known to this version; {ADVICE}")
    return found


def _value_problem(document: Any) -> str:
    """Return where a parsed document holds what no field may hold, and what that is; or nothing."""
    for where, value in _values(document):
        if isinstance(value, _Repeated):
            return f"at {_place(where)}: has the key {value[:100]!r} twice"
        if isinstance(value, float) and not math.isfinite(value):
            return f"at {_place(where)}: found {value}, and a number within 64 bits is needed"
        if isinstance(value, dict | list) and len(where) == _MOST_DEPTH:
            return f"at {_place(where)}: is nested more than {_MOST_DEPTH} levels deep"
    return ""


def _values(document: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield each value in a document with its place, the outer ones first."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while waiting:
        where, value = waiting.pop()
        yield where, value
        if isinstance(value, dict):
            waiting += [((*where, key), part) for key, part in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [((*where, index), part) for index, part in enumerate(value)]


def _place(parts: Iterable[str | int]) -> str:
    """Return the place of a value in a document, such as ``stepmark.sessions[0].seed``."""
    named = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:100]}" for part in parts)
    return named.removeprefix(".") or "the top"


def _short(message: str) -> str:
    """Return a message without the middle of a long value in it."""
    return message if len(message) <= 200 else f"{message[:60]} ... {message[-120:]}"


def _integer(text: str) -> float:
    return int(text) if len(text.removeprefix("-")) <= _MOST_DIGITS else math.inf


def _object(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    counts = Counter(key for key, _ in pairs)
    return _Repeated(next(key for key, count in counts.items() if count > 1))
