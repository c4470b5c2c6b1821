"""What result and baseline files may hold: JSON from anywhere, read as data and refused where a field is not what it should be."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft4Validator, Draft202012Validator
from jsonschema.exceptions import best_match
from jsonschema.validators import extend

from perf.errors import BaselineError

SCHEMA = 1

ADVICE = "it was edited or damaged; restore it from git, or delete it and measure again"

_MOST_DEPTH = 32
_MOST_DIGITS = 19
"""Of an integer in 64 bits."""

# Draft 4 is the last one in which 1.0 is no integer: a count read as a float fails where it is used as an index.
_Validator = extend(  # type: ignore[no-untyped-call]  # types-jsonschema: unannotated
    Draft202012Validator, type_checker=Draft4Validator.TYPE_CHECKER
)


@dataclass(frozen=True, slots=True)
class _Repeated:
    """Stands for an object that has a key twice."""

    key: str


def parse_json(text: str) -> Any:
    """Return the JSON value in a text; nothing in it is executed.

    Numbers beyond 64 bits become infinities, and an object with a repeated key becomes a mark: `value_problem` finds
    them, and can say where.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply to read.
    """
    return json.loads(text, parse_int=_integer, object_pairs_hook=_object)


def value_problem(document: Any) -> str:
    """Return where a parsed document holds what no field may hold, and what that is; or nothing."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, _Repeated):
            return f"at {place(where)}: has the key {value.key[:100]!r} twice"
        if isinstance(value, float) and not math.isfinite(value):
            return f"at {place(where)}: found {value}, and a number within 64 bits is needed"
        if isinstance(value, dict | list) and len(where) == _MOST_DEPTH:
            return f"at {place(where)}: is nested more than {_MOST_DEPTH} levels deep"
        if isinstance(value, dict):
            waiting += [((*where, key), part) for key, part in value.items()]
        elif isinstance(value, list):
            waiting += [((*where, index), part) for index, part in enumerate(value)]
    return ""


def require_valid(document: object, ours: object, path: Path, *, kind: str) -> None:
    """Check a document against the schema.

    Args:
        document: the whole file.
        ours: the part of it that names the schema.
        path: the file, for the message.
        kind: "result" or "portable".

    Raises:
        BaselineError: a field is missing, unknown, or not what it should be; the message names it.
    """
    version = ours.get("schema") if isinstance(ours, dict) else None
    if type(version) is int and version != SCHEMA:
        raise BaselineError(
            f"{path}: has schema {version}, and this version reads {SCHEMA}; use the stepmark that wrote it"
        )
    schema = json.loads(files("perf.records").joinpath("baselines.schema.json").read_text(encoding="utf-8"))
    del schema["oneOf"]
    error = best_match(_Validator({**schema, "$ref": f"#/$defs/{kind}"}).iter_errors(document))
    if error is not None:
        raise BaselineError(f"{path}: at {place(error.absolute_path)}: {_short(error.message)}; {ADVICE}")


def place(parts: Iterable[str | int]) -> str:
    """Return the place of a value in a document, such as ``stepmark.measurements.512.runs[2]``."""
    named = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:100]}" for part in parts)
    return named.removeprefix(".") or "the top"


def _short(message: str) -> str:
    """Return a message without the middle of a long value that it begins with."""
    return message if len(message) <= 200 else f"{message[:60]} ... {message[-120:]}"


def _integer(text: str) -> float:
    return int(text) if len(text.removeprefix("-")) <= _MOST_DIGITS else math.inf


def _object(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    counts = Counter(key for key, _ in pairs)
    return _Repeated(next(key for key, count in counts.items() if count > 1))
