"""Text from files and programs, made safe to show in a terminal."""

import os
import sys
import textwrap


def printable(text: str) -> str:
    r"""Return text with everything that does not print escaped, such as ``\n`` and ``\x1b``.

    Besides control characters these are what turns the direction of writing, and surrogates, which no encoding can
    write.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def indented(text: str, indent: int) -> str:
    """Return text in lines of at most 80 columns, as far as its words are shorter, each begun by so many spaces."""
    margin = " " * indent
    return textwrap.fill(text, 80, initial_indent=margin, subsequent_indent=margin, break_long_words=False)


def emphasized(text: str, *, is_bad: bool) -> str:
    """Return text in bold, and in red where it is bad, on a terminal that shows colours; else as it is.

    NO_COLOR and a dumb terminal turn colours off (no-color.org).
    """
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[1{';31' if is_bad else ''}m{text}\x1b[0m"
