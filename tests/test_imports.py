"""What a start costs: the plugin is in every pytest session of its environment, and help must not wait for torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from perf.records.baselines import KEY
from perf.report.sections import Answer, Plot, Report, Section, Series

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "scipy", "numpy", "tqdm"}
PLOT = Plot(title="Loss", caption="by step", x_label="step", series=[Series(name="512", x=[1, 2], y=[2, 1])])
REPORT = Report(
    title="net",
    about="today",
    answer=Answer(verdict="UNCHANGED", sentence="no change", next_step="nothing to do"),
    sections=[Section(title="Losses", plots=[PLOT])],
)
CALL = "import sys; from perf.cli import main\ntry:\n    main({!r})\nexcept SystemExit:\n    pass"
LOG = "Step=1, Loss=9.0, Rate=8.00 samples/sec, GlobalRate=8.00 samples/sec"


def imported(code: str, cwd: Path) -> set[str]:
    """Return the heavy packages that a program has imported at its end."""
    program = f"{code}\nimport sys; print('HEAVY', *sorted(set(sys.modules) & {HEAVY!r}))"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, cwd=cwd, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return set(found.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("module", ["perf", "perf.seam", "perf.plugin", "perf.claims", "perf.cli"])
def test_a_module_that_everybody_imports_is_light(module: str, tmp_path: Path) -> None:
    """Nothing that takes time, numpy included."""
    assert imported(f"import {module}", tmp_path) == set()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["train", "--help"], ["duet", "--help"], ["workloads"]]
)
def test_what_only_prints_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    """Help, version, and the list of workloads."""
    assert imported(CALL.format(arguments), tmp_path) == set()


@pytest.mark.parametrize("arguments", [["import-log", "run.log"], ["promote"], ["report", "duet.json"]])
def test_what_reads_files_needs_no_torch(arguments: list[str], tmp_path: Path) -> None:
    """A log and a result are text."""
    (tmp_path / "run.log").write_text(LOG + "\n")
    (tmp_path / "baselines").mkdir()
    (tmp_path / "duet.json").write_text(json.dumps({KEY: {"reports": [msgspec.to_builtins(REPORT)]}}))
    assert not imported(CALL.format(arguments), tmp_path) & {"torch", "scipy"}


def test_a_session_without_claims_imports_nothing_heavy(tmp_path: Path) -> None:
    """From its start to its end."""
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n")
    code = (
        "import pytest; assert pytest.main(['-q', '-p', 'perf.plugin', '-p', 'no:hypothesispytest', 'test_it.py']) == 0"
    )
    assert not imported(code, tmp_path) & {"torch", "scipy"}
