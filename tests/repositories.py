"""A small repository in the place of this one, and what is left in it."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path


def git(root: Path, *arguments: str) -> str:
    """Run git and return what it printed."""
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make_repository(root: Path) -> None:
    """Make a repository with two commits."""
    (root / "perf").mkdir(parents=True)
    git(root, "init", "--quiet")
    for content in ("first", "second"):
        (root / "file").write_text(content)
        git(root, "add", ".")
        git(root, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "-m", content)


def left(root: Path) -> list[str]:
    """Return the worktrees of a repository and the temporary folders that are there."""
    worktrees = git(root, "worktree", "list").splitlines()[1:]
    return worktrees + [path.name for path in Path(tempfile.gettempdir()).iterdir()]
