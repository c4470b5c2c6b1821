"""JSON files damaged and forged at random places, each by one seed."""

from __future__ import annotations

import json
import random
from typing import Any

_HERE = "@here@"

TOKENS = (
    *("null", "true", "false", "0", "-1", "1", "1.0", "-0.0", "0.5", "7", "512", "1e5", "1e15", "99999999"),
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "5e-324",
        "1e308",
        "-1e308",
        "9223372036854775807",
        "9223372036854775808",
    ),
    *("1" + "0" * 30, "1" + "0" * 400, "-1" + "0" * 400, "1" * 5000, "1." + "0" * 50),
    *('""', '"0"', '"nano"', '"none"', '"cpu\\n"', '"\\u0000\\u001b[31m"', '"\\ud800"', '"\\u202e"', '"../../x"'),
    json.dumps("x" * 300),
    json.dumps("x" * 200_000),
    *(
        "[]",
        "{}",
        "[0, 1, 2, 3]",
        '{"a": 1}',
        "[" * 40 + "]" * 40,
        "[" * 900 + "]" * 900,
        '{"a":' * 900 + "0" + "}" * 900,
    ),
    "[" * 100_000 + "]" * 100_000,
)
"""Values that a field may be replaced by, as JSON text: other types, extremes, and text that is unsafe to show."""

KEYS = (
    "a",
    "512",
    "512\n",
    "0512",
    "-1",
    "999999999",
    "kind",
    "runs",
    "fullname",
    "",
    "\x1b[2J",
    "\ud800",
)


def mutated(document: dict[str, Any], seed: int) -> bytes:
    """Return a JSON document as a file's content with one to three changes; the same seed makes the same ones."""
    rng = random.Random(seed)
    content = json.loads(json.dumps(document))
    tokens: list[str] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice((_replace, _replace, _replace, _drop, _add, _repeat, _rename))(rng, content, tokens)
    text = json.dumps(content)
    for index, token in enumerate(tokens):
        text = text.replace(f'"{_HERE}{index}"', token)
    return _damage(rng, text.encode())


def _place(rng: random.Random, content: Any) -> tuple[Any, Any]:
    """Return a container and a key of it; every field is as likely as any other, however often it is there."""
    fields: dict[tuple[str, ...], list[tuple[Any, Any]]] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    while waiting:
        field, value = waiting.pop()
        parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, part in parts:
            # Batch sizes, runs and steps have numbers.
            inner = (*field, key if isinstance(key, str) and not key.isdecimal() else "*")
            fields.setdefault(inner, []).append((value, key))
            waiting.append((inner, part))
    return rng.choice(fields[rng.choice(list(fields))]) if fields else ({"": 0}, "")


def _token(rng: random.Random, tokens: list[str], token: str = "") -> str:
    tokens.append(token or rng.choice(TOKENS))
    return f"{_HERE}{len(tokens) - 1}"


def _replace(rng: random.Random, content: Any, tokens: list[str]) -> None:
    container, key = _place(rng, content)
    container[key] = _token(rng, tokens)


def _drop(rng: random.Random, content: Any, tokens: list[str]) -> None:
    container, key = _place(rng, content)
    del container[key]


def _add(rng: random.Random, content: Any, tokens: list[str]) -> None:
    container, key = _place(rng, content)
    if isinstance(container, list):
        container.append(container[key])
    else:
        container[rng.choice(KEYS)] = rng.choice((container[key], _token(rng, tokens)))


def _repeat(rng: random.Random, content: Any, tokens: list[str]) -> None:
    container, key = _place(rng, content)
    if isinstance(container, dict):
        container[_token(rng, tokens, json.dumps(key))] = container[key]


def _rename(rng: random.Random, content: Any, tokens: list[str]) -> None:
    container, key = _place(rng, content)
    if isinstance(container, dict):
        container[rng.choice((f"{key}\n", f" {key}", *KEYS))] = container.pop(key)


def _damage(rng: random.Random, data: bytes) -> bytes:
    """Return the bytes, now and then cut off, with a byte order mark, in another encoding or with a byte changed."""
    where = rng.randrange(len(data) + 1)
    kind = rng.randrange(40)
    if kind == 0:
        return data[:where]
    if kind == 1:
        return b"\xef\xbb\xbf" + data
    if kind == 2:
        return data.decode().encode("utf-16")
    if kind == 3:
        return data[:where] + bytes([rng.randrange(256)]) + data[where + 1 :]
    return data
