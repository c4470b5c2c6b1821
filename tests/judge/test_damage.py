"""Files that somebody damaged or forged: refused in one line, or used without a traceback, whatever is in them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from perf.__main__ import EXIT_DONE, EXIT_PROBLEM, main
from perf.errors import BaselineError
from perf.judge.baselines import Baseline, find_expected, load_portable, load_session, portable_json
from perf.judge.verdicts import judge_counters, judge_fall, judge_losses, judge_rates, judge_scaling
from perf.measure.marks import Session
from tests.judge.mutations import mutated
from tests.judge.test_baselines import PROVENANCE, result
from tests.judge.test_verdicts import quiet
from tests.test_edge import Project, here, project  # noqa: F401  # a fixture

MUTATIONS = int(os.environ.get("STEPMARK_MUTATIONS", "200"))
"""How many mutated files of each kind a session tries; STEPMARK_MUTATIONS=2500 looks closer."""

STATS: dict[str, Any] = dict.fromkeys(("min", "max", "mean", "stddev", "median", "iqr", "q1", "q3", "total"), 0.1)
STATS |= {"ops": 10.0, "rounds": 60, "iterations": 1, "stddev_outliers": 2, "outliers": "2;1"}


def document(session: Session) -> dict[str, Any]:
    """Return a result with what pytest-benchmark writes of each batch size."""
    names = [f"test_rate[{size}]" for size in session.measurements]
    benchmarks = [
        {"group": "g", "name": n, "fullname": f"tests/benchmarks/test_training.py::{n}", "stats": STATS} for n in names
    ]
    return {**result(session), "benchmarks": benchmarks}


def judged(session: Session, baseline: Baseline | None, directory: Path) -> None:
    """Judge every claim of a session."""
    judge_rates(session, baseline, threshold=0.05)
    judge_scaling(session, baseline, threshold=0.05)
    for size, measurement in session.measurements.items():
        expected = find_expected(session, size, baseline, directory)
        judge_fall(measurement)
        judge_losses(session, size, expected)
        judge_counters(session, size, expected)


def test_a_mutated_result_is_refused_in_a_line_or_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`promote` takes it or names the file and exits with 3; what is taken can be judged, promoted, and promoted over."""
    monkeypatch.chdir(tmp_path)
    path, baselines = Path("result.json"), Path("baselines")
    baselines.mkdir()
    original, fresh = document(quiet(num_runs=3)), quiet(num_runs=3, seed=1)
    promoted = 0
    for seed in range(MUTATIONS):
        path.write_bytes(mutated(original, seed))
        code = main(["promote", "--from", str(path), "--reason", f"seed {seed}"])
        error = capsys.readouterr().err
        assert code in (EXIT_DONE, EXIT_PROBLEM), seed
        promoted += code == EXIT_DONE
        if code == EXIT_PROBLEM:
            assert len(error.splitlines()) == 1, seed
            assert error.startswith("python -m perf promote: error: "), seed
            assert "result.json: " in error or "baselines/" in error, seed
            assert error.rstrip("\n").isprintable(), seed
        try:
            found = load_session(path)
        except BaselineError:
            assert code == EXIT_PROBLEM, seed
            continue
        judged(fresh, found, baselines)
        judged(found.session, found, baselines)
    for path in baselines.glob("*/*.json"):
        (load_portable if path.parent.name == "portable" else load_session)(path)
    assert 0 < promoted < MUTATIONS


def test_a_mutated_portable_baseline_is_refused_in_a_line_or_can_be_used(tmp_path: Path) -> None:
    """The error names the file; what is taken can be compared with."""
    session = quiet(num_runs=2)
    path = tmp_path / "portable" / "pico-cpu-fp32-torch-2.13.0.json"
    path.parent.mkdir()
    original = json.loads(json.dumps(portable_json(session, PROVENANCE, [])))
    for seed in range(MUTATIONS):
        path.write_bytes(mutated(original, seed))
        problem = ""
        try:
            judged(session, None, tmp_path)
        except BaselineError as error:
            problem = str(error)
        assert not problem or problem.startswith(f"{path}: "), seed
        assert problem.isprintable(), seed


def test_a_mutated_baseline_is_refused_before_anything_is_measured_or_compared_with(
    project: Project,  # noqa: F811
) -> None:
    """In a whole session with --benchmark-compare=FILE: usage error in a line, or outcomes; never an internal error."""
    original = document(here(quiet(num_runs=3)))
    path = project.pytester.path / "stored.json"
    accepted = [seed for seed in range(MUTATIONS) if _is_read(path, mutated(original, seed))]
    refused = [seed for seed in range(20) if seed not in accepted]
    num_sessions = max(2, MUTATIONS // 100)
    for seed in [*accepted[:num_sessions], *refused[:num_sessions]]:
        path.write_bytes(mutated(original, seed))
        found = project.run(f"--benchmark-compare={path}", "-k", "test_rate")
        assert "INTERNALERROR" not in found.stdout.str() + found.stderr.str(), seed
        assert "Traceback" not in found.stdout.str() + found.stderr.str(), seed
        wanted = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        assert found.ret in (wanted if seed in accepted else (pytest.ExitCode.USAGE_ERROR,)), seed


def _is_read(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        load_session(path)
    except BaselineError:
        return False
    return True
