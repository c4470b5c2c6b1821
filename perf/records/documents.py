"""JSON files from anywhere, read as data; JSON files of ours, written whole."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perf.errors import BaselineError

ADVICE = "it was edited or damaged; restore it from git, or delete it and measure again"

_MOST_BYTES = 2**28  # far more than any session has: what is larger is something else, and is not read into memory
_MOST_DEPTH = 32


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; nothing in it is executed.

    Raises:
        BaselineError: it is missing, empty, cut off, not JSON, holds NaN, names a key twice, or is no object.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"is larger than {_MOST_BYTES:,} bytes")
        # Not msgspec's parser: of a key that is there twice it takes the last, and says nothing.
        decoder = json.JSONDecoder(
            parse_int=_number, parse_float=_number, parse_constant=_number, object_pairs_hook=_object
        )
        found = decoder.decode(content.decode("utf-8"))
        if _depth(found) > _MOST_DEPTH:
            raise ValueError(f"is nested more than {_MOST_DEPTH} levels deep")
        if not isinstance(found, dict):
            raise ValueError(f"holds a JSON {type(found).__name__}, and an object is needed")
    except OSError as error:
        raise BaselineError(f"{path}: cannot be read ({error}); measure first, or name another file") from None
    except (ValueError, RecursionError) as error:
        raise BaselineError(f"{path}: is not whole JSON ({error}); {ADVICE}") from None
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


def _number(text: str) -> float:
    """Return a number of JSON; one that does not fit into 64 bits is refused, and msgspec crashes on large ones."""
    is_whole = text.removeprefix("-").isdecimal()
    if len(text.removeprefix("-")) > 19 if is_whole else not math.isfinite(float(text)):
        raise ValueError(f"found {text[:20]}, and a number within 64 bits is needed")
    return int(text) if is_whole else float(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"has the key {key[:100]!r} twice")
        found[key] = value
    return found


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if parts is None else 1 + max(map(_depth, parts), default=0)
