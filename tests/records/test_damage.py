"""Files that somebody damaged or forged: refused in one line, or used without a traceback, whatever is in them."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perf.cli import EXIT_DONE, main
from perf.errors import EXIT_PROBLEM, BaselineError
from perf.judge.verdicts import judge_counters, judge_loss_decreases, judge_losses, judge_rates
from perf.records.baselines import (
    KEY,
    Baseline,
    baseline_json,
    baseline_path,
    find_expected,
    load_baseline,
    load_session,
)
from perf.records.sessions import Session
from tests.judge.test_verdicts import quiet
from tests.records.mutations import mutated
from tests.records.test_baselines import PROVENANCE, result
from tests.test_edge import Project, here, project  # noqa: F401  # a fixture

MUTATIONS = int(os.environ.get("STEPMARK_MUTATIONS", "200"))
"""How many mutated files of each kind a session tries; STEPMARK_MUTATIONS=2500 looks closer."""


def document(session: Session) -> dict[str, Any]:
    """Return a result with what pytest-benchmark writes of each batch size, some of it."""
    names = [f"test_rate[{size}]" for size in session.measurements]
    stats = {"min": 0.1, "data": [0.1, 0.1], "rounds": 2, "outliers": "2;1"}
    benchmarks = [{"name": n, "group": "g", "stats": stats, "extra_info": {"workload": "pico"}} for n in names]
    return {**result(session), "benchmarks": benchmarks}


def small(seed: int = 0) -> Session:
    """Return a session with two batch sizes, three runs and eight steps: files that are read in milliseconds."""
    whole = quiet(num_runs=3, seed=seed)
    measurements = {
        size: msgspec.structs.replace(
            m,
            runs=tuple(msgspec.structs.replace(r, step_s=r.step_s[:8], losses=r.losses[:8]) for r in m.runs),
        )
        for size, m in whole.measurements.items()
        if size != 2048
    }
    return msgspec.structs.replace(whole, measurements=measurements)


def judged(session: Session, baseline: Baseline | None, directory: Path) -> None:
    """Judge every claim of a session."""
    judge_rates(session, baseline, threshold=0.05)
    judge_rates(session, baseline, threshold=0.05, is_scaling=True)
    for size, measurement in session.measurements.items():
        expected = find_expected(session, size, baseline, directory)
        judge_loss_decreases(measurement)
        judge_losses(session, size, expected)
        judge_counters(session, size, expected)


def whole(value: object, least: int, most: int = 2**63 - 1) -> bool:
    """Return whether a value is an integer within bounds, and neither 1.0 nor True."""
    return type(value) is int and least <= value <= most


def plausible(session: Session) -> bool:
    """Return whether a session could have been measured, as far as types and orders of magnitude say."""
    hardware, software = session.fingerprint.hardware, session.fingerprint.software
    measurements = session.measurements.values()
    runs = [run for m in measurements for run in m.runs]
    return all(
        (
            re.fullmatch("[A-Za-z0-9._/:-]{1,300}", session.workload),
            re.fullmatch("[ -~]*", session.python),
            all(re.fullmatch("[0-9A-Za-z.+_-]{1,100}", str(software[name])) for name in ("python", "torch", "numpy")),
            all(re.fullmatch("[ -~]*", name) for facts in (hardware, software) for name in facts),
            whole(session.seed, 0),
            whole(hardware["cores"], 1, 10**6),
            whole(hardware["num_gpus"], 0, 10**6),
            whole(software["threads"], 1, 10**6),
            len(session.fingerprint.slug) < 250,
            all(whole(m.global_batch_size, 1, 10**8) for m in measurements),
            all(whole(m.micro_batch_size, 1, m.global_batch_size) for m in measurements),
            all(whole(run.warmup_steps, 0, len(run.step_s) - 1) for run in runs),
            all(type(s) is float and 1e-10 < s < 1e7 for run in runs for s in run.step_s),
            all(type(loss) is float and -1e10 < loss < 1e10 for run in runs for loss in run.losses),
            all(whole(number, 1) for run in runs for number in run.counters.ops.values()),
            all(
                whole(n, 0)
                for run in runs
                for n in msgspec.structs.asdict(run.counters).values()
                if n != run.counters.ops
            ),
        )
    )


def test_a_mutated_result_is_refused_in_a_line_or_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`promote` takes it or names the file and exits with 3.

    What is taken can be judged, promoted, and promoted over.
    """
    monkeypatch.chdir(tmp_path)
    path, baselines = Path("result.json"), Path("baselines")
    baselines.mkdir()
    original, fresh = document(small()), small(seed=1)
    promoted = 0
    for seed in range(MUTATIONS):
        path.write_bytes(mutated(original, seed))
        code = main(["promote", "--from", str(path), "--reason", f"seed {seed}"])
        error = capsys.readouterr().err
        assert code in (EXIT_DONE, EXIT_PROBLEM), seed
        promoted += code == EXIT_DONE
        if code == EXIT_PROBLEM:
            assert len(error.splitlines()) == 1, seed
            assert error.startswith("stepmark promote: error: "), seed
            assert "result.json: " in error or "baselines/" in error, seed
            assert error.rstrip("\n").isprintable(), seed
        try:
            found = load_session(path)
        except BaselineError:
            assert code == EXIT_PROBLEM, seed
            continue
        assert plausible(found.session), seed
        judged(fresh, found, baselines)
        judged(found.session, found, baselines)
    for path in baselines.glob("*/**/*.json"):
        assert load_baseline(path)
    assert 0 < promoted < MUTATIONS


def test_a_mutated_portable_baseline_is_refused_in_a_line_or_can_be_used(tmp_path: Path) -> None:
    """The error names the file; what is taken can be compared with."""
    session = small()
    path = baseline_path(tmp_path, session.configuration, session.fingerprint, portable=True)
    path.parent.mkdir()
    refused = 0
    entry = {"date": "", "reason": "", "commit": "", "dirty": False, "replaces": ""}
    baseline = Baseline(path=path, session=session, provenance=PROVENANCE, promotions=[entry], portable=True)
    original = {**result(session), KEY: json.loads(json.dumps(baseline_json(baseline)))}
    for seed in range(MUTATIONS):
        path.write_bytes(mutated(original, seed))
        problem = ""
        try:
            judged(session, None, tmp_path)
        except BaselineError as error:
            problem = str(error)
            refused += 1
        assert not problem or problem.startswith(f"{path}: "), seed
        assert problem.isprintable(), seed
    assert 0 < refused < MUTATIONS


def test_a_mutated_baseline_is_refused_before_anything_is_measured_or_compared_with(
    project: Project,  # noqa: F811  # the fixture that is imported above
) -> None:
    """In a whole session with --benchmark-compare=FILE: usage error in a line, or outcomes; never an internal error."""
    original = document(here(small()))
    path = project.pytester.path / "stored.json"
    num_sessions = max(2, MUTATIONS // 100)
    seeds = itertools.count()
    accepted = list(itertools.islice((s for s in seeds if _is_read(path, mutated(original, s))), num_sessions))
    refused = [seed for seed in range(accepted[-1]) if seed not in accepted]
    assert refused
    for seed in [*accepted, *refused[:num_sessions]]:
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
