"""The first five minutes: a template that can be measured at once, a demonstration, and what a machine can show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perf.app import first
from perf.app.first import DEMO_FILE, FAULTS, TEMPLATE
from perf.app.what import noted_load
from perf.cli import EXIT_DONE, EXIT_USAGE, main
from perf.errors import EXIT_PROBLEM, MeasureError
from perf.finding import own_workloads
from perf.measure.sides import last_other_commit
from tests.repositories import git

FAULTY = (
    TEMPLATE.read_text(encoding="utf-8")
    .replace("torch.manual_seed(case.seed)", "torch.seed()")
    .replace("loss.backward()", "loss.backward(); loss.item()")
)


@pytest.fixture
def here(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two commits, in which commands are given."""
    monkeypatch.chdir(repository)
    return repository


def test_the_template_can_be_measured_as_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is repeatable, has no host syncs and one update; the file that is there is not written again."""
    assert main(["init"]) == EXIT_DONE
    out = capsys.readouterr().out
    assert "two processes have the same losses" in out
    assert "  0 host syncs (" in out
    assert out.endswith("Next: pytest bench_step.py\n")
    assert "pytest bench_step.py --benchmark-compare" in (here / "bench_step.py").read_text()
    assert own_workloads(here)[0].id == "bench_step.py:classifier"


def test_a_step_is_checked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is there is left as it is; what keeps its step from being measured is said, and where it waits."""
    file = here / "bench_own.py"
    file.write_text(FAULTY)
    assert main(["init", "bench_own.py"]) == EXIT_PROBLEM
    out = capsys.readouterr().out
    assert "NOT repeatable: two processes have other losses or work; seed" in out
    assert "  1 host syncs (.item(), " in out
    assert out.endswith("Next: mend what is marked NOT\n")
    assert file.read_text() == FAULTY


@pytest.mark.parametrize(("name", "says"), [("step.txt", "a Python file is needed"), ("empty.py", "has no workload")])
def test_what_is_no_file_of_workloads_is_wrong_usage(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, says: str
) -> None:
    """Nothing is written over."""
    (here / "empty.py").write_text("")
    assert main(["init", name]) == EXIT_USAGE
    assert says in capsys.readouterr().err
    assert (here / "empty.py").read_text() == ""


def test_the_demonstration_finds_what_it_plants(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each fault is in the file when its duet runs; of the two, the other losses are found here, exactly."""
    duet, seen = first.duet, []

    def is_slower(**asked: Any) -> int:
        seen.append(Path(DEMO_FILE).read_text())
        return 1 if len(seen) == 1 else duet(**asked)

    monkeypatch.setattr(first, "duet", is_slower)
    assert main(["demo"]) == EXIT_DONE
    assert [[faulty in text for text in seen] for _, _, faulty in FAULTS] == [[True, False], [False, True]]
    out = capfd.readouterr().out
    assert "+        with torch.no_grad():" in out
    assert "LOSSES_DIFFER: not the same training at 1024: the loss of step 2" in out
    assert "Both were found" in out
    monkeypatch.setattr(first, "duet", lambda **asked: 4)
    with pytest.raises(MeasureError, match="found 0 of 2 planted faults"):
        first.demo()


def test_the_doctor_says_what_there_is_and_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry each, in lines that fit a terminal; what is not as it should be is marked, and has advice."""
    monkeypatch.setattr(first, "busy_share", lambda seconds: 0.5)
    assert main(["doctor"]) == EXIT_DONE
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    lines = out.replace("\n  ", " ").splitlines()
    assert all(line.startswith(("ok    ", "NOTE  ")) for line in lines)
    assert any("cores, " in line for line in lines)
    advice = "stop them, or expect to need larger budgets"
    assert f"NOTE  other programs use 50% of the cores: {advice}" in lines


def test_a_duet_without_sides_takes_the_last_other_commit(here: Path, tmp_path: Path) -> None:
    """HEAD if something has changed since, else the one before; one commit alone and no repository are told."""
    assert last_other_commit(here, True) == "HEAD~1"
    assert last_other_commit(here, False) == "HEAD"
    (here / "file").write_text("third")
    assert last_other_commit(here, True) == "HEAD"
    git(here, "checkout", "--quiet", "--orphan", "alone")
    git(here, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "--all", "-m", "only")
    with pytest.raises(MeasureError, match="has no commit HEAD~1 to compare with"):
        last_other_commit(here, True)
    (tmp_path / "bare").mkdir()
    with pytest.raises(MeasureError, match="has no commit HEAD~1 to compare with"):
        last_other_commit(tmp_path / "bare", True)


def test_load_of_other_programs_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From a tenth on."""
    assert 0 <= noted_load() <= 1
    capsys.readouterr()
    monkeypatch.setattr("psutil.cpu_percent", lambda seconds: 5)
    assert noted_load() == 0.05
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("psutil.cpu_percent", lambda seconds: 50)
    assert noted_load() == 0.5
    assert capsys.readouterr().out.startswith("Other programs use 50% of the cores")


def test_the_template_is_all_that_a_user_needs(tmp_path: Path) -> None:
    """It imports nothing from inside perf."""
    (tmp_path / "bench_step.py").write_text(TEMPLATE.read_text(encoding="utf-8"))
    code = "import bench_step; print(bench_step.classifier.global_batch_sizes)"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout == "(256, 1024)\n"
    assert "perf." not in TEMPLATE.read_text().replace("perf.workload", "")
