"""The example of commands: each is measured as a user would, and another loss is found, in a repository of its own."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from perf.records.baselines import load_session
from perf.records.sessions import Measurement
from tests.repositories import git

ROOT = Path(__file__).parents[2]

Tool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the example, committed to a repository of its own."""
    ignored = shutil.ignore_patterns("__pycache__", "runs")
    project = Path(shutil.copytree(ROOT / "examples" / "commands", tmp_path / "project", ignore=ignored))
    git(project, "init", "--quiet")
    commit(project)
    return project


@pytest.fixture
def run(project: Path) -> Tool:
    """Return what runs a module of Python's in the project."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "GITHUB_", "GIT_", "STEPMARK_"))}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        python = [sys.executable, "-P", "-m", *command]
        return subprocess.run(
            python, cwd=project, env={**environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )

    return run


def commit(project: Path) -> None:
    """Commit all that is there."""
    git(project, "add", ".")
    git(project, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "-m", "all")


def change(project: Path, before: str, after: str) -> None:
    """Change the script."""
    file = project / "reference.sh"
    text = file.read_text()
    assert text.count(before) == 1
    file.write_text(text.replace(before, after))


def measured(run: Tool, project: Path, entry: str, size: int, *options: str) -> Measurement:
    """Measure an entry at a batch size, and return what was kept of it."""
    done = run("pytest", "-p", "perf.plugin", f"stepmark.toml::{entry}", "-k", f"[{size}]", *options)
    path = project / "runs" / "bench.json"
    assert path.exists(), done.stdout + done.stderr
    return load_session(path).session.measurements[size]


def test_a_trainers_lines_are_those_of_its_steps(project: Path, run: Tool) -> None:
    """Hugging Face's Trainer runs; each line is five steps further, and a second run prints the same losses."""
    for name in ("transformers", "accelerate"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install 'stepmark[commands]'")
    found = measured(run, project, "hf-trainer", 16, "--perf-runs", "2", "--perf-steps", "20")
    first, second = found.runs
    assert first.steps == (5, 10, 15, 20)
    assert first.losses == second.losses
    assert first.losses[0] > first.losses[-1]


def test_ranks_of_torchrun_train_a_batch_together(project: Path, run: Tool) -> None:
    """Two ranks train what the entry says; the log is that of one, with a line every two steps."""
    found = measured(run, project, "torchrun", 512, "--perf-runs", "1", "--perf-steps", "8")
    assert found.world_size == 2
    (only,) = found.runs
    assert only.steps == (2, 4, 6, 8)
    assert len(only.printed_s) == 4


def test_a_scripts_other_loss_fails_stored_and_side_by_side(project: Path, run: Tool) -> None:
    """Measure and promote the shell script; then another loss is found beside the stored ones, and in a duet."""
    change(project, "0.1 + $size / 4000", "0")  # waits are not what this is about
    commit(project)
    measure = ("pytest", "-p", "perf.plugin", "stepmark.toml::reference", "-k", "[64]")
    first = run(*measure, "--perf-runs", "3")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "NO_BASELINE" in first.stdout
    promoted = run("perf", "promote", "--reason", "first baseline")
    assert promoted.returncode == 0, promoted.stderr
    change(project, "$step ^ 0.3", "$step ^ 0.31")
    second = run(*measure, "--perf-runs", "1", "--benchmark-compare", "--perf-duet=never")
    assert second.returncode == 1, second.stdout + second.stderr
    said = " ".join(second.stdout.split())
    assert "FAILED: losses at 64: the loss of line 2 is 6.83985, and 6.87351 in all 3 runs" in said
    sides = ("--baseline", "git:HEAD", "--global-batch-size", "64")
    duet = run("perf", "duet", "--workload", "stepmark.toml:reference", *sides)
    assert duet.returncode == 1, duet.stdout + duet.stderr
    assert "LOSSES_DIFFER: not the same training at 64: " in duet.stdout
