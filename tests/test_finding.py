"""A workload is found by its id, on the side that it belongs to; what cannot be found is one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from pathlib import Path
from perf.errors import UsageError
from perf.finding import find
other = Path(sys.argv[3]) if len(sys.argv) > 3 else None
try:
    found = find(sys.argv[1], Path(sys.argv[2]), other)
    print(found.origin, found.workload.name, getattr(sys.modules.get("model"), "VERSION", None))
except UsageError as error:
    print("refused:", error)
"""

BENCH = """
import perf
import model

@perf.workload(global_batch_sizes=(4,))
def net(case):
    return lambda: 1.0
"""


def loaded(name: str, root: Path, other: Path | None = None) -> str:
    """Return what a fresh process finds."""
    command = [sys.executable, "-c", CODE, name, str(root), *([str(other)] if other else [])]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environ, cwd="/").stdout.strip()


def project(root: Path, version: int, files: str = "bench_net.py model.py perf.py") -> Path:
    """Write a project, whose own perf.py nobody must import."""
    contents = {
        "bench_net.py": BENCH,
        "model.py": f"VERSION = {version}\n",
        "perf.py": "raise SystemExit('not this')\n",
    }
    root.mkdir()
    for file in files.split():
        (root / file).write_text(contents[file])
    return root


def test_a_built_in_workload_needs_no_project(tmp_path: Path) -> None:
    """Its id is its name."""
    assert loaded("pico", tmp_path).endswith("perf/train/workloads.py pico None")
    assert "refused: workload 'pica': is none of pico, " in loaded("pica", tmp_path)


@pytest.mark.parametrize("name", ["bench_net.py:net", "bench_net:net"])
def test_a_workload_of_a_project_imports_that_project(tmp_path: Path, name: str) -> None:
    """By file or by module; a file of the project called perf.py is in nobody's way."""
    root = project(tmp_path / "here", 1)
    assert loaded(name, root) == f"{root}/bench_net.py net 1"


def test_packages_below_src_are_found(tmp_path: Path) -> None:
    """As in many projects."""
    root = project(tmp_path / "here", 1, "bench_net.py")
    project(root / "src", 7, "model.py")
    assert loaded("bench_net.py:net", root).endswith("net 7")


def test_each_side_imports_its_own(tmp_path: Path) -> None:
    """The same id, two trees."""
    candidate, baseline = project(tmp_path / "candidate", 2), project(tmp_path / "baseline", 1)
    assert loaded("bench_net.py:net", baseline, candidate) == f"{baseline}/bench_net.py net 1"


def test_a_side_without_the_file_runs_the_candidate_s_against_its_own_package(tmp_path: Path) -> None:
    """The benchmark is newer than the commit it is asked about; what it measures is the commit's."""
    candidate = project(tmp_path / "candidate", 2)
    baseline = project(tmp_path / "baseline", 1, "model.py")
    assert loaded("bench_net.py:net", baseline, candidate) == f"{candidate}/bench_net.py net 1"


def test_an_interpreter_below_the_candidate_is_not_the_candidate_s(tmp_path: Path) -> None:
    """An environment, or stepmark itself, may lie in the project's folder."""
    candidate = project(tmp_path / "candidate", 2)
    baseline = project(tmp_path / "baseline", 1)
    library = candidate / "env" / "lib"
    command = (
        f"import sysconfig; get = sysconfig.get_path; lib = {str(library)!r}\n"
        "sysconfig.get_path = lambda name: lib if name == 'stdlib' else get(name)\n"
        "import abc; abc.__file__ = lib + '/abc.py'\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    found = subprocess.run(
        [sys.executable, "-c", command + CODE, "bench_net.py:net", str(baseline), str(candidate)],
        check=True, capture_output=True, text=True, env=environ, cwd="/",
    ).stdout  # fmt: skip
    assert found.strip() == f"{baseline}/bench_net.py net 1"


def test_a_side_never_runs_the_candidate_s_package(tmp_path: Path) -> None:
    """Found through an installation that points at the working tree, it would be compared with itself."""
    candidate = project(tmp_path / "candidate", 2)
    baseline = project(tmp_path / "baseline", 1, "bench_net.py")
    command = f"import sys; sys.path.append({str(candidate)!r})"  # as an editable installation does
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    found = subprocess.run(
        [sys.executable, "-c", command + CODE, "bench_net.py:net", str(baseline), str(candidate)],
        check=True, capture_output=True, text=True, env=environ, cwd="/",
    ).stdout  # fmt: skip
    assert (
        f"refused: workload bench_net.py:net: model was imported from {candidate}/model.py, which is the candidate's"
        in found
    )


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nowhere.py:net", "is not in"),
        ("bench_net.py:nothing", "has no workload nothing (there are net)"),
        ("model.py:VERSION", "has no workload VERSION (there are none)"),
        ("nowhere:net", "cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("broken.py:net", "cannot be imported: ZeroDivisionError: division by zero ("),
        ("exits.py:net", "cannot be imported: SystemExit: 3"),
    ],
)
def test_what_cannot_be_found_is_one_line(tmp_path: Path, name: str, problem: str) -> None:
    """Which workload, what was found, and what to do."""
    root = project(tmp_path / "here", 1)
    (root / "broken.py").write_text("x = 1\ny = x / 0\n")
    (root / "exits.py").write_text("raise SystemExit(3)\n")
    found = loaded(name, root)
    assert found.startswith("refused: ")
    assert name.partition(":")[0] in found
    assert problem in found
    assert len(found.splitlines()) == 1
    if name == "broken.py:net":
        assert found.endswith("broken.py, line 2)")
