"""The line of a step's own code that an operation comes from."""

import functools
import linecache
import os
import sys
import sysconfig
from pathlib import Path

import perf
import perf.train
from perf.printable import printable

_PERF, _TRAIN = Path(perf.__file__).parent, Path(perf.train.__file__).parent
_MOST_CHARACTERS = 80


def calling_line() -> str:
    """Return the innermost line of the step's own code on this thread's stack; "" if there is none.

    Lines of Python, of installed packages and of stepmark do not count; those of the built-in workloads do. For
    example ``net/kernel.py:81: total += a @ b``, with the path from the current folder.
    """
    frame = sys._getframe(1)
    while not _is_own(frame.f_code.co_filename):
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    return _shown(frame.f_code.co_filename, frame.f_lineno)


@functools.cache
def _is_own(filename: str) -> bool:
    path = Path(filename)
    if filename.startswith("<") or _TRAIN in path.parents:
        return _TRAIN in path.parents and path.name != "stepping.py"
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and not {_PERF, Path(sysconfig.get_path("stdlib"))} & {*path.parents}


@functools.cache
def _shown(filename: str, number: int) -> str:
    path = os.path.relpath(filename)
    place = printable(path if not path.startswith("..") else Path(filename).name)
    text = printable(" ".join(linecache.getline(filename, number).split()))
    return f"{place[-_MOST_CHARACTERS:]}:{number}: {text[:_MOST_CHARACTERS]}"
