"""A user's project: where its root is, and what this tool is called there."""

import os
import sys
from pathlib import Path

MARKS = ("pyproject.toml", "setup.cfg", "tox.ini", ".git")
"""What a project has at its root, where ``baselines/`` and ``runs/`` are."""


def find_root(start: Path | None = None) -> Path:
    """Return the nearest folder from `start` (default: the current one) upward that has one of `MARKS`.

    Else `start`.
    """
    folder = (start or Path.cwd()).resolve()
    return next((path for path in (folder, *folder.parents) if any((path / mark).exists() for mark in MARKS)), folder)


def shown(path: Path) -> Path:
    """Return a path as a reader in the current folder would write it."""
    return Path(os.path.relpath(path))


def tool() -> str:
    """Return how this process's user calls the command line."""
    return "python -m perf" if Path(sys.argv[0]).parts[-2:] == ("perf", "__main__.py") else "stepmark"
