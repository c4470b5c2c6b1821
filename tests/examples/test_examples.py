"""The example projects: each builds and learns; one is measured and judged as a user would, in its own repository."""

from __future__ import annotations

import importlib
import inspect
import os
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

import pytest
from scipy import stats

from perf.seam import Case, Workload
from tests.repositories import git

FILES = sorted((Path(__file__).parents[2] / "examples").glob("*/bench_*.py"))
NUM_STEPS = 20


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def workload(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Workload:
    """Return the workload of an example; a skip where what it needs is not installed."""
    monkeypatch.syspath_prepend(request.param.parent)
    try:
        module = importlib.import_module(request.param.stem)
    except unittest.SkipTest as error:
        pytest.skip(str(error))
    (workload,) = (value for value in vars(module).values() if isinstance(value, Workload))
    return workload


def make_case(workload: Workload, global_batch_size: int) -> Case:
    """Return the case of a batch size."""
    micro_batch_size = workload.micro_batch_size_of(global_batch_size)
    return Case(global_batch_size=global_batch_size, micro_batch_size=micro_batch_size)


def test_a_workload_takes_fifteen_lines(workload: Workload) -> None:
    """A workload function, its decorator included, has at most 15 lines that are not blank, and says what it is for."""
    lines = [line for line in inspect.getsource(workload.build).splitlines() if line.strip()]
    assert len(lines) <= 15
    assert workload.why


@pytest.mark.filterwarnings("default:::torch")  # not the example's, and no reason to fail it
def test_an_example_learns_repeatably(workload: Workload) -> None:
    """At each batch size the loss decreases within 20 steps (p <= 0.001); a second build repeats the first losses."""
    for global_batch_size in workload.global_batch_sizes:
        case = make_case(workload, global_batch_size)
        step = workload(case)
        losses = [float(step()) for _ in range(NUM_STEPS)]
        assert stats.kendalltau(range(NUM_STEPS), losses, alternative="less").pvalue <= 0.001
        step = workload(case)
        assert [float(step()) for _ in range(3)] == losses[:3]


def test_a_users_project_from_the_first_session_to_what_changed(tmp_path: Path) -> None:
    """Measure, promote; then another learning rate and one more product: both are found exactly, by name."""
    cnn = FILES[0].parent
    assert cnn.name == "cnn"
    project = Path(shutil.copytree(cnn, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__")))
    git(project, "init", "--quiet")
    git(project, "add", ".")
    git(project, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "-m", "first")
    root = str(Path(__file__).parents[2])
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "GITHUB_", "GIT_"))}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        """Run a module of Python's in the project."""
        python = [sys.executable, "-P", "-m", *command]
        return subprocess.run(python, cwd=project, env={**environ, "PYTHONPATH": root}, capture_output=True, text=True)

    measure = ("pytest", "-p", "perf.plugin", "bench_cnn.py", "-k", "64")
    first = run(*measure, "--perf-runs", "3")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "NO_BASELINE" in first.stdout
    promoted = run("perf", "promote", "--reason", "first baseline")
    assert promoted.returncode == 0, promoted.stderr
    file = project / "bench_cnn.py"
    text = file.read_text()
    changed = text.replace("lr=1e-3", "lr=1.1e-3").replace(
        "loss.backward()", "torch.ones(2, 2) @ torch.ones(2, 2)\n        loss.backward()"
    )
    assert changed.count("1.1e-3") == changed.count("torch.ones(2, 2) @") == 1
    file.write_text(changed)
    second = run(*measure, "--perf-runs", "1", "--benchmark-compare", "--perf-duet=never")
    assert second.returncode == 1, second.stdout + second.stderr
    assert "FAILED: losses at 64: Step=2: the loss is " in second.stdout
    assert "+1 aten::mm, +2 aten::ones" in second.stdout
