"""Promotion: noisy sessions, two at once, and advice that works when it is followed."""

from __future__ import annotations

import fcntl
import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perf.app import promotion
from perf.app.promotion import promote, refusal
from perf.app.side_by_side import baseline_recipe
from perf.cli import EXIT_DONE, EXIT_USAGE, main
from perf.errors import EXIT_PROBLEM, BaselineError
from perf.judge.verdicts import Verdict, judge_counters, judge_losses, judge_rates
from perf.measure.sides import parse_recipe
from perf.records.baselines import KEY, baseline_path, find_expected, load_baseline, load_session
from perf.records.documents import write_json
from perf.records.sessions import Fingerprint, Session
from perf.runner.machine import fingerprint
from tests.judge.noise import COUNTERS, HERE, SIZES
from tests.judge.test_verdicts import as_baseline, judge_scaling, quiet
from tests.records.test_baselines import promoted, result, written
from tests.test_edge import Project, here, project, side_by_side  # noqa: F401  # pytest finds fixtures by name

DATE = "2026-11-24T00:00:00+00:00"


def noisy(**changes: Any) -> Session:
    """Return a session whose rates spread so much that half the speed could hide behind them."""
    return msgspec.structs.replace(quiet(spread=0.7), **changes)


def slowed(session: Session, *sizes: int) -> Session:
    """Return a session with one operation more in each step, at some batch sizes."""
    more = msgspec.structs.replace(COUNTERS, ops={**COUNTERS.ops, "aten::copy_": 2})
    changed = {
        size: msgspec.structs.replace(m, runs=tuple(msgspec.structs.replace(run, counters=more) for run in m.runs))
        for size, m in session.measurements.items()
        if size in sizes
    }
    return msgspec.structs.replace(session, measurements={**session.measurements, **changed})


def only(session: Session, *sizes: int) -> Session:
    """Return a session with some of its batch sizes."""
    return msgspec.structs.replace(session, measurements={size: session.measurements[size] for size in sizes})


def test_a_noisy_session_is_promoted_and_its_times_decide_nothing(tmp_path: Path) -> None:
    """Commit, work and losses count as ever; rates and scaling are INCONCLUSIVE, with the reason and what to do."""
    machine, _ = promoted(tmp_path, noisy())
    baseline = load_session(machine)
    for judge in (judge_rates, judge_scaling):
        found = judge(quiet(), baseline, threshold=0.05)[512]
        assert (found.verdict, found.holds) == (Verdict.INCONCLUSIVE, None)
        assert "the runs vary too much: only slowdowns above " in found.reason
        assert found.reason.endswith("compare side by side: --perf-duet")
    expected = find_expected(quiet(), 512, baseline, tmp_path)
    assert expected is not None
    assert expected.path == machine
    assert judge_losses(quiet(), 512, expected).holds is True
    assert judge_counters(quiet(), 512, expected).holds is True
    assert judge_counters(slowed(quiet(), 512), 512, expected).holds is False


def test_a_noisy_baseline_can_be_run_again(tmp_path: Path) -> None:
    """The side of a duet that stands for it is its commit."""
    (machine, *_) = promoted(tmp_path, msgspec.structs.replace(noisy(), fingerprint=fingerprint()))
    assert baseline_recipe(parse_recipe(["baseline:"]), load_session(machine)).commit == "a" * 40


def test_a_night_works_from_a_noisy_baseline(
    project: Project,  # noqa: F811  # the fixture that is imported above
    side_by_side: list[dict[str, Any]],  # noqa: F811  # the fixture that is imported above
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its commit is run at all batch sizes and decides; without a duet, rates say INCONCLUSIVE."""
    monkeypatch.chdir(project.pytester.path)
    path = baseline_path(Path("baselines"), "pico-cpu-fp32", fingerprint())
    path.unlink()
    written(Path("noisy.json"), result(here(noisy())))
    assert main(["promote", "--from", "noisy.json", "--reason", "first"]) == EXIT_DONE
    found = project.run("--benchmark-compare", "--perf-duet")
    found.assert_outcomes(passed=13, failed=1, skipped=1)
    project.run("--benchmark-compare", "-k", "test_rate").assert_outcomes(passed=2, failed=1)
    assert [asked["sizes"] for asked in side_by_side] == [list(SIZES)] * 2
    found = project.run("--benchmark-compare", "--perf-duet=never", "-k", "test_rate")
    found.assert_outcomes(skipped=3)
    assert found.ret == 0
    found.stdout.fnmatch_lines(["*INCONCLUSIVE*only slowdowns above *"])
    assert "Comparing against benchmarks from" not in found.stdout.str() + found.stderr.str()


@pytest.mark.parametrize("provenance", [{"dirty": True}, {"commit": "unversioned"}])
def test_a_baseline_that_cannot_be_run_again_is_not_advised_to_be(tmp_path: Path, provenance: dict[str, Any]) -> None:
    """Wherever --perf-duet would refuse it, the advice is to promote a result of a clean commit first."""
    for session in (noisy(), quiet(spread=0.08)):
        (machine, *_) = promoted(tmp_path, session, **provenance)
        baseline = load_session(machine)
        with pytest.raises(BaselineError, match="clean commit is needed"):
            baseline_recipe(parse_recipe(["baseline:"]), baseline)
        reason = judge_rates(quiet(spread=0.08, seed=1), baseline, threshold=0.05)[512].reason
        assert "needs a baseline of a clean commit: this one was measured " in reason


def test_promotion_says_what_a_dirty_baseline_is_good_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is promoted; side by side it will be refused, and the note says so and what to do."""
    monkeypatch.chdir(tmp_path)
    Path("baselines").mkdir()
    written(Path("result.json"), result(dirty=True))
    assert main(["promote", "--from", "result.json"]) == EXIT_DONE
    out = capsys.readouterr().out
    assert "--perf-duet and baseline: will refuse it. Commit, measure and promote again." in " ".join(out.split())
    assert main(["promote"]) == EXIT_PROBLEM
    assert "runs/bench.json: cannot be read" in (err := capsys.readouterr().err)
    assert "measure first" in " ".join(err.split())


def test_two_promotions_at_once_keep_both_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one that comes while the first is about to write waits, and then sees what the first wrote."""
    results = [written(tmp_path / f"{name}.json", result(quiet(0.1 * i))) for i, name in enumerate(("first", "second"))]
    directory = tmp_path / "baselines"
    second_waits_or_ended = threading.Event()
    second = threading.Thread(target=lambda: _second(results[1], directory, second_waits_or_ended))

    def flock(file: Any, operation: int) -> None:
        if threading.current_thread() is second:
            second_waits_or_ended.set()
        real_flock(file, operation)

    def write(path: Path, content: dict[str, Any]) -> None:
        if threading.current_thread() is not second and not second.ident:
            second.start()
            assert second_waits_or_ended.wait(60)
        write_json(path, content)

    real_flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(promotion, "write_json", write)
    (machine, _) = promote(results[0], directory, reason="first", date=DATE)
    second.join(60)
    assert not second.is_alive()
    assert [entry["reason"] for entry in load_session(machine).promotions] == ["first", "second"]


def _second(path: Path, directory: Path, ended: threading.Event) -> None:
    try:
        promote(path, directory, reason="second", date=DATE)
    finally:
        ended.set()


def test_a_reason_that_could_not_be_read_back_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is longer than a file may hold is wrong usage; the longest that is taken is read back."""
    monkeypatch.chdir(tmp_path)
    Path("baselines").mkdir()
    written(Path("result.json"), result())
    assert main(["promote", "--from", "result.json", "--reason", "x" * 1001]) == EXIT_USAGE
    assert not list(Path("baselines").iterdir())
    assert main(["promote", "--from", "result.json", "--reason", "\ud800" * 1000]) == EXIT_DONE
    machine = baseline_path(Path("baselines"), "pico-cpu-fp32", HERE)
    assert load_session(machine).promotions[0]["reason"] == "\ud800" * 1000


def test_a_session_of_some_batch_sizes_becomes_a_first_baseline(tmp_path: Path) -> None:
    """A portable baseline that has more of the same is left alone; one that would lose some stops the promotion."""
    directory = tmp_path / "baselines"
    machine, portable = promoted(tmp_path, quiet())
    machine.unlink()
    assert promoted(tmp_path, only(quiet(), 512)) == [machine]
    assert set(load_baseline(portable).session.measurements) == {512, 1024, 2048}
    machine.unlink()
    other = slowed(only(quiet(), 512), 512)
    with pytest.raises(BaselineError, match=r"portable.*also has 1024, 2048"):
        promoted(tmp_path, other)
    assert "also has 1024, 2048" in refusal(written(tmp_path / "result.json", result(other)), directory)


def test_the_report_advises_promotion_only_where_it_works(
    project: Project,  # noqa: F811  # the fixture that is imported above
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Followed to the letter, the last line's command exits with 0; where it would not, the line says why."""
    monkeypatch.chdir(project.pytester.path)
    followed = []
    for session, size in ((quiet(num_runs=2), ""), (quiet(spread=0.7), ""), (quiet(), "512"), (quiet(), "")):
        project.give = lambda session=session: here(session)
        found = project.run("-k", f"test_rate and {size}" if size else "test_rate")
        line = " ".join(found.stdout.str().partition("\nresult: ")[2].partition("\npage: ")[0].split())
        advised = "to make it this machine's baseline: stepmark promote" in line
        capsys.readouterr()
        followed.append(main(["promote", "--reason", "TEXT"]) == EXIT_DONE)
        assert advised == followed[-1]
        if not advised:
            assert line.split("baseline: ", 1)[1] in capsys.readouterr().err
    assert followed == [False, True, False, True]


def test_a_verdict_advises_what_the_session_lacks() -> None:
    """Promotion, where the session has it; else what must be measured first."""
    rate, scaling = (judge(quiet(), None, threshold=0.05)[512] for judge in (judge_rates, judge_scaling))
    for judgement in (rate, scaling, judge_counters(quiet(), 512, None)):
        assert judgement.reason.endswith("make one: stepmark promote")
    few = judge_rates(quiet(num_runs=2), None, threshold=0.05)[512].reason
    assert "this session cannot become one: has 2 runs at 512, and 3 are needed" in few
    baseline = as_baseline(only(quiet(), 512))
    assert judge_rates(quiet(), baseline, threshold=0.05)[1024].reason.endswith("make one: stepmark promote")


def test_text_of_files_is_shown_with_control_characters_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In errors, and in verdicts that name a mark or a fact of the file."""
    forged = result(msgspec.structs.replace(quiet(), failures={4096: "x\x1b[2J\ny\ud800"}))
    with pytest.raises(BaselineError) as error:
        promote(written(tmp_path / "forged.json", forged), tmp_path / "baselines", reason="", date=DATE)
    assert "x\\x1b[2J\\ny\\ud800" in str(error.value)
    log = written(tmp_path / "\x1b.log", "nothing")
    assert main(["import-log", str(log)]) == EXIT_PROBLEM
    assert "\\x1b.log: has no line" in capsys.readouterr().err
    (machine, *_) = promoted(tmp_path, noisy())
    content = json.loads(machine.read_text())
    content["machine_info"]["cpu"] = content[KEY]["sessions"][0]["fingerprint"]["hardware"]["cpu"] = "\x1b[31mred"
    machine = baseline_path(tmp_path, "pico-cpu-fp32", Fingerprint(hardware=content["machine_info"], software={}))
    machine.parent.mkdir()
    baseline = load_session(written(machine, content))
    assert "cpu \\x1b[31mred -> Test CPU" in judge_rates(quiet(), baseline, threshold=0.05)[512].reason
