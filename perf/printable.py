"""Text from files and programs, made safe to show in a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return text with everything that does not print escaped, such as ``\n`` and ``\x1b``.

    Besides control characters these are what turns the direction of writing, and surrogates, which no encoding can
    write.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
