"""How text, paths and this tool are shown to whoever reads a terminal."""

import os
import sys
import textwrap
from pathlib import Path

WIDTH = 80  # columns of a terminal that tables and wrapped lines use


def printable(text: str) -> str:
    r"""Return text with everything that does not print escaped, such as ``\n`` and ``\x1b``.

    Besides control characters these are what turns the direction of writing, and surrogates, which no encoding can
    write.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def wrapped(text: str) -> str:
    """Return each line of a text within `WIDTH` columns, if its words are shorter; continued lines are indented."""
    wrap = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrap.fill(printable(line)) for line in text.split("\n"))


def emphasized(text: str, *, is_bad: bool) -> str:
    """Return text in bold, and in red where it is bad, on a terminal that shows colours; else as it is.

    NO_COLOR and a dumb terminal turn colours off (no-color.org).
    """
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[1{';31' if is_bad else ''}m{text}\x1b[0m"


def shown(path: Path) -> Path:
    """Return a path as a reader in the current folder would write it."""
    return Path(os.path.relpath(path))


def tool() -> str:
    """Return how this process's user calls the command line."""
    return "python -m perf" if Path(sys.argv[0]).parts[-2:] == ("perf", "__main__.py") else "stepmark"
