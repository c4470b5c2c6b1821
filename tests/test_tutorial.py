"""The tutorial, followed from the top: its commands run, and what it shows of their output is in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"
EXIT_CODES = {"duet": {0, 1, 4}, "--benchmark-compare": {1}}  # of commands that find something; others end with 0


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Return each command of the blocks of a console, and the lines that are shown below it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def shape(text: str) -> str:
    """Return text in one line, without its numbers: those are measured."""
    return re.sub(r"[-+]?\d[\d,.]*", "#", " ".join(text.split()))


def test_the_tutorial_shows_what_happens(tmp_path: Path) -> None:
    """Each line that it shows is in the output, in order; only numbers may be others, and budgets are smaller here."""
    names = {"NAME": "A", "EMAIL": "a@example.org"}
    author = {f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in names.items()}
    quick = {"PYTEST_ADDOPTS": "--perf-runs 3 --perf-steps 8 --perf-duet=never", "COLUMNS": "80"}
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GITHUB_"))}
    folder = tmp_path
    followed = commands(TUTORIAL.read_text(encoding="utf-8"))
    assert len(followed) > 10
    for command, shown in followed:
        line = re.sub(r"^(stepmark|pytest)\b", lambda tool: f"{sys.executable} -m {MODULES[tool[0]]}", command)
        done = subprocess.run(
            ["bash", "-c", line.replace("--budget 60s", "--budget 1s")],
            cwd=folder, env={**outside, **author, **quick}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if "git init" in command:
            folder = tmp_path / "net"
        codes = next((codes for word, codes in EXIT_CODES.items() if word in command), {0})
        assert done.returncode in codes, f"{command}\n{done.stdout}\n{done.stderr}"
        rest = shape(done.stdout)
        for expected in shown:
            assert shape(expected) in rest, f"{command}: {expected!r} is not in\n{done.stdout}"
            rest = rest.partition(shape(expected))[2]


MODULES = {"stepmark": "perf", "pytest": "pytest"}
