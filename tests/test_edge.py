"""The pytest edge, tried as a user would: whole sessions with measurements whose truth is known.

The first five are the ways in which a comparison with pytest-benchmark can be green without having looked.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

import perf.app.bench
import perf.measure.bench
import perf.measuring  # noqa: F401  # pytester drops what is first imported in a test, and what is patched must stay
from perf.app.what import What
from perf.errors import MeasureError
from perf.judge.duets import DuetResult
from perf.measure.sides import Recipe, Side
from perf.records.baselines import KEY, Baseline, baseline_json, baseline_path, load_session, result_json
from perf.records.documents import write_json
from perf.records.sessions import Fingerprint, Session
from perf.records.wire import CaseSpec
from perf.report.page import as_svg
from perf.runner.machine import fingerprint
from perf.signals import EXIT_STOPPED, STOPS
from tests.judge.noise import SIZES
from tests.judge.test_verdicts import quiet
from tests.report.test_duet import WORK, duet

ROOT = Path(__file__).parents[1]
PROVENANCE = {"date": "2026-11-23", "command": "pytest", "commit": "a" * 40, "dirty": False}
PROMOTION = {"date": "2026-11-23", "reason": "", "commit": "a" * 40, "dirty": False, "replaces": ""}


class Project:
    """A copy of the project's edge in which measuring takes no time, and gives what a test wants."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester = pytester
        self.baselines = pytester.path / "baselines"
        self.measured: list[tuple[str, list[int]]] = []
        self.measured_sizes: list[int] = []
        self.arguments: tuple[str, ...] = ()
        self.is_named_by_side = False
        self.give: Callable[[], Session] = lambda: here(quiet(seed=1))
        for name in ("conftest.py", "pyproject.toml", "tests/benchmarks/test_training.py"):
            (pytester.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, pytester.path / name)
        self.baselines.mkdir()
        monkeypatch.setattr("perf.app.bench.measure", self._measure)
        monkeypatch.setattr("perf.app.bench.noted_load", lambda: 0.0)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
        monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        monkeypatch.delenv("STEPMARK_HISTORY", raising=False)
        monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # the sessions within are none of its workers

    def _measure(self, side: Side, cases: Mapping[int, CaseSpec], **options: Any) -> Session:
        self.measured.append((side.workload, list(cases)))
        self.measured_sizes = list(cases)
        whole = self.give()
        workload = side.workload if self.is_named_by_side else whole.workload

        def after(rounds: int) -> Session:
            """Return what was measured until then."""
            kept = {
                size: msgspec.structs.replace(m, runs=m.runs[:rounds])
                for size, m in whole.measurements.items()
                if size in self.measured_sizes
            }
            return msgspec.structs.replace(whole, measurements=kept, workload=workload)

        options["on_round"](after(1))
        return after(options["num_rounds"])

    def run(self, *arguments: str) -> pytest.RunResult:
        """Run pytest here."""
        return self.pytester.runpytest_inprocess("-p", "no:cacheprovider", *self.arguments, *arguments)

    def write(self, session: Session, path: Path | None = None) -> Path:
        """Write a session as this machine's baseline, or as a result."""
        if path is None:
            path = baseline_path(self.baselines, session.configuration, fingerprint())
            part = baseline_json(Baseline(path=path, session=session, provenance=PROVENANCE, promotions=[PROMOTION]))
        else:
            part = result_json([session], PROVENANCE, {})
        write_json(path, {"benchmarks": [], "machine_info": session.fingerprint.hardware, KEY: part})
        return path


def here(session: Session) -> Session:
    """Return a session as if this machine had measured it."""
    return msgspec.structs.replace(session, fingerprint=fingerprint())


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project without a baseline. The plots of its pages take a second: they are drawn where a test says so."""
    monkeypatch.setattr("perf.report.page.as_svg", lambda plot: "<svg></svg>")
    return Project(pytester, monkeypatch)


def test_a_session_leaves_a_page_with_its_plots(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are drawn from what was measured; the terminal says where the page is."""
    monkeypatch.setattr("perf.report.page.as_svg", as_svg)
    project.write(here(quiet()))
    found = project.run("--benchmark-compare", "-k", "test_rate or test_losses")
    found.stdout.fnmatch_lines(["page: runs/bench.html"])
    page = (project.pytester.path / "runs" / "bench.html").read_text()
    assert page.count("<path") > 100
    assert "Loss by optimizer steps" in page


def test_silent_green_1_a_benchmark_missing_from_the_baseline(project: Project) -> None:
    """A batch size that the baseline lacks is skipped by name, and fails where a baseline is required."""
    whole = here(quiet())
    project.write(
        msgspec.structs.replace(whole, measurements={size: whole.measurements[size] for size in (1024, 2048)})
    )
    found = project.run("--benchmark-compare", "-k", "test_rate")
    found.assert_outcomes(passed=2, skipped=1)
    found.stdout.fnmatch_lines(["SKIPPED *NO_BASELINE: *has no such batch size (it has 1024, 2048)*"])
    assert found.ret == 0
    found = project.run("--benchmark-compare", "-k", "test_rate", "--perf-require-baseline")
    found.assert_outcomes(passed=2, failed=1)
    assert found.ret == 1


def test_silent_green_2_a_comparison_without_a_file(project: Project) -> None:
    """A file that is not there is an error; without any baseline each rate says NO_BASELINE and how to make one."""
    project.give = lambda: pytest.fail("nothing may be measured")
    found = project.run("--benchmark-compare=0007")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*--benchmark-compare=0007: is no file, and *"])
    project.give = lambda: here(quiet())
    found = project.run("--benchmark-compare", "-k", "test_rate")
    found.assert_outcomes(skipped=3)
    found.stdout.fnmatch_lines(["*512*NO_BASELINE*", "SKIPPED *NO_BASELINE: *make one: stepmark promote*"])
    assert found.ret == 0


@pytest.mark.parametrize("option", ["--perf-duet", "--perf-require-baseline", "--perf-strict"])
def test_silent_green_3_no_benchmark_at_all(project: Project, option: str) -> None:
    """A session that was asked to compare and ran only other tests fails, although they pass."""
    (project.pytester.path / "tests" / "test_other.py").write_text("def test_other():\n    pass\n")
    found = project.run("tests/test_other.py", option)
    found.assert_outcomes(passed=1)
    assert found.ret == pytest.ExitCode.TESTS_FAILED
    found.stdout.fnmatch_lines(["--*: no rate was compared in this session, so it fails"])
    assert project.run("tests/test_other.py").ret == 0
    # Whose options these are shows in what is collected: claims that are all deselected are not compared either.
    for compare in ("--benchmark-compare", "--benchmark-compare-fail=min:5%"):
        found = project.run(compare, "-k", "test_other", "-W", "ignore")
        found.assert_outcomes(passed=1, deselected=15)
        assert found.ret == pytest.ExitCode.TESTS_FAILED


def test_silent_green_4_parallel_tests(project: Project) -> None:
    """Under -n what is timed is skipped with the reason; asking for a comparison there is an error."""
    found = project.pytester.runpytest_subprocess("-n", "1")
    found.assert_outcomes(skipped=15)
    found.stdout.fnmatch_lines(["SKIPPED *not timed under -n*run: pytest without -n"])
    found = project.pytester.runpytest_subprocess("-n", "1", "--benchmark-compare", "-W", "ignore")
    found.stdout.fnmatch_lines(["--benchmark-compare: no rate was compared in this session, so it fails"])
    assert found.ret == pytest.ExitCode.TESTS_FAILED
    for option in ("--perf-duet", "--perf-require-baseline", "--perf-strict"):
        found = project.run("-n", "1", option)
        assert found.ret == pytest.ExitCode.USAGE_ERROR
        found.stderr.fnmatch_lines([f"*{option}: times are not measured under -n*"])


def test_what_is_exact_is_said_after_the_first_round(project: Project) -> None:
    """Other losses than the baseline's are told at once, before the other rounds, the duet and the verdicts."""
    project.write(here(quiet()))

    def give() -> Session:
        whole = here(quiet(seed=1))
        other = {}
        for size in (512, 1024):
            runs = [
                msgspec.structs.replace(run, losses=tuple(loss + 1 for loss in run.losses))
                for run in whole.measurements[size].runs
            ]
            other[size] = msgspec.structs.replace(whole.measurements[size], runs=tuple(runs))
        return msgspec.structs.replace(whole, measurements={**whole.measurements, **other})

    project.give = give
    found = project.run("--benchmark-compare", "-k", "test_losses")
    found.assert_outcomes(passed=1, failed=2)
    failures = ["512: losses FAILED: Step=1: *", "1024: losses FAILED: Step=1: *"]
    found.stdout.fnmatch_lines(["run 1 of 3: *", *failures, "Global batch size 512, *"])


def test_one_slowdown_fails_one_claim_about_times(project: Project) -> None:
    """The scaling of a batch size whose rate fails is skipped: the rate explains it."""
    project.write(here(quiet()))
    project.give = lambda: here(quiet(0.0, 0.3, 0.0, seed=1))
    found = project.run("--benchmark-compare", "-k", "test_rate or test_scaling")
    found.assert_outcomes(passed=4, failed=1, skipped=1)
    found.stdout.fnmatch_lines(["SKIPPED *the rate of this batch size fails, which explains it"])


def test_silent_green_5_a_regression_fails_its_own_test(project: Project) -> None:
    """The batch size that got slower is the test that fails, in the summary, the exit code and the JUnit file."""
    project.write(here(quiet()))
    project.give = lambda: here(quiet(0.0, 0.3, 0.0, seed=1))
    found = project.run("-k", "test_rate", "--junitxml=junit.xml")
    found.assert_outcomes(passed=2, failed=1)
    assert found.ret == pytest.ExitCode.TESTS_FAILED
    found.stdout.fnmatch_lines(
        ["*1024*-23.*REGRESSED", "1024: rate: same work, same software*", "FAILED *test_rate?1024? - *REGRESSED*"]
    )
    cases = ET.parse(project.pytester.path / "junit.xml").getroot().iter("testcase")
    assert [case.get("name") for case in cases if case.find("failure") is not None] == ["test_rate[1024]"]


def test_another_machines_baseline_is_refused(project: Project) -> None:
    """Its rates are NOT_COMPARABLE, with the field that differs; a session that compared nothing fails."""
    hardware = {**fingerprint().hardware, "cpu": "Other CPU"}
    foreign = msgspec.structs.replace(
        quiet(), fingerprint=Fingerprint(hardware=hardware, software=fingerprint().software)
    )
    path = project.write(foreign, project.pytester.path / "foreign.json")
    found = project.run(f"--benchmark-compare={path}", "-k", "test_rate")
    found.assert_outcomes(skipped=3)
    found.stdout.fnmatch_lines(["SKIPPED *NOT_COMPARABLE: *cpu Other CPU -> *"])
    assert found.ret == pytest.ExitCode.TESTS_FAILED
    found = project.run(f"--benchmark-compare={path}", "-k", "test_rate", "--perf-require-baseline")
    found.assert_outcomes(failed=3)
    project.write(foreign)
    found = project.run("--benchmark-compare", "-k", "test_rate")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*pico-cpu-fp32.json: holds what belongs into other-cpu*"])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "is not whole JSON"),
        (lambda text: "", "is not whole JSON"),
        (lambda text: '{"benchmarks": []}', "has nothing of stepmark's"),
        (lambda text: text.replace('"step_s"', '"step_x"', 1), "step_"),
    ],
)
@pytest.mark.parametrize("arguments", [[], ["--benchmark-compare"]])
def test_a_damaged_baseline_is_told_before_anything_is_measured(
    project: Project, damage: Callable[[str], str], says: str, arguments: list[str]
) -> None:
    """Cut off, empty, foreign or edited: one error with the file's name, and no measurement."""
    path = project.write(here(quiet()))
    path.write_text(damage(path.read_text()))
    project.give = lambda: pytest.fail("nothing may be measured")
    found = project.run(*arguments)
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in found.errlines + found.outlines if path.name in line]
    assert says in lines[0]


def test_a_renamed_test_is_still_compared(project: Project) -> None:
    """What is compared is the claim, not the test's name."""
    project.write(here(quiet()))
    project.give = lambda: here(quiet(0.3, 0.3, 0.3, seed=1))
    path = project.pytester.path / "tests" / "benchmarks" / "test_training.py"
    path.write_text(path.read_text() + "    test_rate = None\n    test_speed = Claims.test_rate\n")
    found = project.run("--benchmark-compare", "-k", "test_speed")
    found.assert_outcomes(failed=3)


def test_a_batch_size_that_is_no_longer_measured_is_told(project: Project) -> None:
    """The summary names what only the baseline has, and --perf-strict fails for it."""
    whole = here(quiet())
    wider = {**whole.measurements, 4096: msgspec.structs.replace(whole.measurements[512], global_batch_size=4096)}
    project.write(msgspec.structs.replace(whole, measurements=wider))
    found = project.run("--benchmark-compare")
    found.stdout.fnmatch_lines(["*NOT MEASURED NOW: 4096*"])
    assert found.ret == 0
    found = project.run("--benchmark-compare", "--perf-strict")
    found.stdout.fnmatch_lines(["--perf-strict: the baseline has 4096, and the workload no longer does: it fails"])
    assert found.ret == pytest.ExitCode.TESTS_FAILED


def test_what_could_not_be_checked_is_never_passed(project: Project) -> None:
    """INCONCLUSIVE is skipped with its reason, and fails under --perf-strict."""
    project.write(here(quiet(spread=0.08)))
    project.give = lambda: here(quiet(spread=0.08, seed=1))
    found = project.run("-k", "test_rate")
    found.assert_outcomes(skipped=3)
    found.stdout.fnmatch_lines(["SKIPPED *INCONCLUSIVE: *"])
    project.run("-k", "test_rate", "--perf-strict").assert_outcomes(failed=3)


def test_a_whole_session_against_its_baseline_is_green(project: Project) -> None:
    """On a quiet machine with the same work all fifteen claims hold, and the summary has a line for each batch size."""
    project.write(here(quiet()))
    found = project.run("--benchmark-compare", "--perf-strict")
    found.assert_outcomes(passed=15)
    assert found.ret == 0
    found.stdout.fnmatch_lines([f"*{size}*UNCHANGED*4 hold" for size in SIZES])
    found.stdout.fnmatch_lines(["*benchmark 'training step'*"])


def test_measuring_writes_no_baseline(project: Project) -> None:
    """After a session, also one that saves, the baselines are what they were."""
    path = project.write(here(quiet()))
    before = path.read_bytes()
    project.run("--benchmark-compare", "--benchmark-autosave", "--benchmark-json=mine.json")
    assert path.read_bytes() == before
    assert [p for p in project.baselines.rglob("*") if p.is_file()] == [path]


def test_results_are_saved_whole(project: Project) -> None:
    """--benchmark-json, --benchmark-autosave and the latest result each hold every raw value.

    A saved one can be compared with.
    """
    project.run("--benchmark-json=mine.json", "--benchmark-autosave")
    [saved] = (project.pytester.path / ".benchmarks").rglob("0001_*.json")
    for path in (Path("mine.json"), Path("runs/bench.json"), saved):
        found = load_session(project.pytester.path / path).session
        assert found.about["hidden_size"] == 32
        assert msgspec.structs.replace(found, about={}, health={}) == here(quiet(seed=1))
    content = json.loads((project.pytester.path / "mine.json").read_text())
    assert [benchmark["name"] for benchmark in content["benchmarks"]] == [f"test_rate[{size}]" for size in SIZES]
    steps = [s for run in quiet(seed=1).measurements[512].runs for s in run.timed_step_s]
    assert content["benchmarks"][0]["stats"]["data"] == pytest.approx(steps)
    project.run("--benchmark-compare=0001", "-k", "test_rate").assert_outcomes(passed=3)


def test_selections_are_those_of_pytest_benchmark(project: Project) -> None:
    """--benchmark-only, --benchmark-skip and -k select; only what is selected is measured."""
    project.write(here(quiet()))
    project.run("-k", "512").assert_outcomes(passed=4, skipped=1, deselected=10)
    assert project.measured_sizes == [512]
    found = project.run("--benchmark-only")
    found.assert_outcomes(passed=3, skipped=12)
    found = project.run("--benchmark-skip")
    found.assert_outcomes(passed=12, skipped=3)
    found = project.run("--benchmark-disable")
    found.assert_outcomes(skipped=15)
    found.stdout.fnmatch_lines(["SKIPPED *not timed: --benchmark-disable"])


def test_a_batch_size_that_fails_fails_its_own_tests(project: Project) -> None:
    """A run that ends with NaN fails the claims of its batch size with the step named; the others are judged."""

    def give() -> Session:
        whole = here(quiet())
        kept = {size: m for size, m in whole.measurements.items() if size != 1024}
        return msgspec.structs.replace(whole, measurements=kept, failures={1024: "run 2: Step=7: the loss is nan"})

    project.give = give
    project.write(here(quiet()))
    found = project.run()
    found.assert_outcomes(passed=10, errors=5)
    found.stdout.fnmatch_lines(["*ERROR at setup of TestTraining.test_rate?1024?*", "*1024*Step=7: the loss is nan*"])
    found.stdout.fnmatch_lines(["*512*UNCHANGED*", "*1024*NOT MEASURED*", "*2048*UNCHANGED*", "1024: *Step=7*"])


def test_nothing_measured_is_an_error(project: Project) -> None:
    """When the workers cannot start, every claim says why, once, without a traceback."""

    def give() -> Session:
        raise MeasureError("global batch size 512: run 1: out of memory")

    project.give = give
    found = project.run()
    found.assert_outcomes(errors=15)
    found.stdout.fnmatch_lines(["*out of memory*"])
    found.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_while_measuring_ends_the_session(project: Project, number: signal.Signals) -> None:
    """With the exit code of every stopped command, and one line that says so."""

    def give() -> Session:
        signal.raise_signal(number)
        pytest.fail("the signal was lost")

    project.give = give
    found = project.run()
    assert found.ret == EXIT_STOPPED
    found.stdout.fnmatch_lines(["*stopped by a signal while measuring*"])
    found.stdout.no_fnmatch_line("*Traceback*")


def test_the_result_of_every_measured_session_can_be_promoted(project: Project) -> None:
    """Also of one that judged exact claims only: it has the times all the same."""
    project.run("-k", "test_counters").stdout.fnmatch_lines(["result: runs/bench.json; *stepmark promote"])
    kept = load_session(project.pytester.path / "runs" / "bench.json").session
    assert kept.measurements[512].runs[0].step_s


def test_there_is_one_judge(project: Project) -> None:
    """Where claims are judged, pytest-benchmark compares nothing in its table, and its own gate is wrong usage."""
    project.write(here(quiet()))
    found = project.run("--benchmark-compare")
    found.assert_outcomes(passed=15)
    assert "Comparing against benchmarks" not in found.stdout.str() + found.stderr.str()
    found.stdout.no_fnmatch_line("*(NOW)*")
    project.give = lambda: pytest.fail("nothing may be measured")
    found = project.run("--benchmark-compare", "--benchmark-compare-fail=min:5%")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*--benchmark-compare-fail: verdicts judge here; leave it out*"])


def test_a_damaged_portable_baseline_is_told_before_anything_is_measured(project: Project) -> None:
    """It is found when the session begins."""
    project.give = lambda: pytest.fail("nothing may be measured")
    (project.baselines / "portable").mkdir()
    (project.baselines / "portable" / "pico.json").write_text("{")
    found = project.run()
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*pico.json: is not whole JSON*"])


def test_sessions_keep_themselves_in_the_history(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its page; the second one is slower, and its page and its headline say since when."""
    folder = project.pytester.path / "history"
    monkeypatch.setenv("STEPMARK_HISTORY", str(folder))
    project.write(here(quiet()))
    project.run("-k", "1024").assert_outcomes(passed=4, skipped=1)
    project.give = lambda: here(quiet(0.3, 0.3, 0.3, seed=1))
    found = project.run("--benchmark-compare", "--perf-duet=never")
    found.stdout.fnmatch_lines(["REGRESSED: rate at *", f"history: {folder}/*.html"])
    found.stdout.no_fnmatch_line("*since*")
    project.run("--benchmark-compare", "--perf-duet=never").stdout.fnmatch_lines(["*session 1 of 2 (*"])
    kept = sorted(path.suffix for path in folder.iterdir())
    assert kept == 3 * [".html"] + 3 * [".json"]
    newest = max(folder.glob("*.html"), key=lambda path: path.stat().st_mtime_ns)
    assert "History: 2 sessions on this machine" in newest.read_text()
    assert re.search(r'href="[^"/]+.html">page of session 1</a>', newest.read_text())


def test_a_session_that_was_stopped_is_not_in_the_history(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers are of fewer runs than the others'."""
    folder = project.pytester.path / "history"
    monkeypatch.setenv("STEPMARK_HISTORY", str(folder))
    whole = quiet(seed=1)
    runs = {n: msgspec.structs.replace(m, runs=m.runs[:2]) for n, m in whole.measurements.items()}
    monkeypatch.setattr(
        "perf.app.bench.measure", lambda *_, **__: here(msgspec.structs.replace(whole, measurements=runs))
    )
    assert project.run().ret == EXIT_STOPPED
    assert not folder.exists()


def test_a_damaged_history_is_told_before_anything_is_measured(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after minutes; and one that cannot be written fails the session, whose result is kept."""
    folder = project.pytester.path / "history"
    monkeypatch.setenv("STEPMARK_HISTORY", str(folder))
    folder.mkdir()
    damaged = folder / "20261123T150000Z-a-b.json"
    damaged.write_text("{")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{damaged}: is not whole JSON*"])
    assert not project.measured
    monkeypatch.setenv("STEPMARK_HISTORY", str(damaged))  # a file
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["the result could not be kept: *"])


def test_a_result_that_cannot_be_kept_fails_the_session(project: Project) -> None:
    """The verdicts are shown, and what went wrong with the file."""
    (project.pytester.path / "runs" / "bench.json").mkdir(parents=True)
    found = project.run("-k", "test_loss_decreases or test_rate")
    found.stdout.fnmatch_lines(["the result could not be kept: *bench.json*", "*512*NO_BASELINE*"])
    assert found.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    "option", ["--benchmark-compare=", "--benchmark-compare=" + "x" * 300, "--benchmark-json=no/o.json"]
)
def test_files_that_cannot_be_are_told_before_anything_is_measured(project: Project, option: str) -> None:
    """An empty name, one too long for a file, a folder that is not there."""
    project.give = lambda: pytest.fail("nothing may be measured")
    assert project.run(option).ret == pytest.ExitCode.USAGE_ERROR


def test_tests_of_ones_own_may_look_at_the_session(project: Project) -> None:
    """Without a batch size a test is told what it needs; with the marker and one it gets the measurement."""
    path = project.pytester.path / "tests" / "benchmarks" / "test_own.py"
    path.write_text(
        "import pytest\n"
        "@pytest.mark.perf\n"
        "def test_mine(measured, global_batch_size):\n"
        "    assert len(measured.measurements[global_batch_size].runs) == 6\n"
    )
    project.run(str(path)).assert_outcomes(passed=3)
    path.write_text("def test_mine(measured):\n    pass\n")
    found = project.run(str(path))
    found.assert_outcomes(errors=1)
    found.stdout.fnmatch_lines(["*needs tests with a global_batch_size*"])


def test_thresholds_come_from_the_marker_or_the_configuration(project: Project) -> None:
    """A change below the configured threshold passes; the same one beyond a test's own fails."""
    project.write(here(quiet()))
    project.give = lambda: here(quiet(0.03, 0.03, 0.03, seed=1))
    project.run("-k", "test_rate").assert_outcomes(passed=3)
    project.run("-k", "test_rate", "-o", "perf_threshold=0.02").assert_outcomes(failed=3)
    path = project.pytester.path / "tests" / "benchmarks" / "test_training.py"
    original = path.read_text().replace("from perf", "import pytest\n\nfrom perf")
    path.write_text(f"{original}    pytestmark = pytest.mark.perf(threshold=0.01)\n")
    project.run("-k", "test_rate", "-o", "perf_threshold=9%").assert_outcomes(failed=3)
    path.write_text(f"{original}    pytestmark = pytest.mark.perf(0.01)\n")
    assert project.run().ret == pytest.ExitCode.USAGE_ERROR


def test_a_threshold_that_is_none_is_told(project: Project) -> None:
    """A threshold must be a fraction."""
    found = project.run("-k", "test_rate", "-o", "perf_threshold=5 %")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*perf_threshold = '5 %': '5 %' is no fraction between 0 and 1, such as 2% or 0.02*"])


@pytest.mark.parametrize(
    "arguments", [["--perf-runs=0"], ["--perf-steps=0"], ["--perf-steps=22"], ["--perf-workload=none"]]
)
def test_wrong_options_are_usage_errors(project: Project, arguments: list[str]) -> None:
    """A number that is too small, or a workload that is not there, is told before anything runs."""
    assert project.run(*arguments).ret == pytest.ExitCode.USAGE_ERROR


@pytest.fixture
def side_by_side(project: Project, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A project with a baseline in which duets take no time: 1024 is slower. Yields what duets were asked for."""
    project.write(here(quiet()))
    asked: list[dict[str, Any]] = []

    def compared(
        recipes: tuple[Recipe, Recipe], what: What, *, threshold: float, budget_option: str, command_steps: int | None
    ) -> DuetResult:
        asked.append({"recipes": recipes, "sizes": what.sizes, "budget_s": what.budget_s, "threshold": threshold})
        return duet({size: -0.1 if size == 1024 else 0.0 for size in what.sizes})

    monkeypatch.setattr("perf.app.bench.compared", compared)
    return asked


def test_side_by_side_times_are_judged_by_the_duet(
    project: Project, side_by_side: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch size that is slower fails, its stored times say nothing; result, summary and GitHub have it all."""
    step_summary = project.pytester.path / "step.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step_summary))
    found = project.run("--benchmark-compare", "--perf-duet")
    found.assert_outcomes(passed=13, failed=1, skipped=1)  # its rate explains its scaling
    assert found.ret == pytest.ExitCode.TESTS_FAILED
    (asked,) = side_by_side
    assert asked["recipes"][0].commit == PROVENANCE["commit"]
    assert asked["recipes"][1].text == "self"
    assert asked["sizes"] == list(SIZES)
    assert asked["budget_s"] == 60.0
    found.stdout.fnmatch_lines(["REGRESSED: side by side with *", "REGRESSED: 9.5% slower*", "*1024*REGRESSED*3 hold"])
    first = step_summary.read_text().splitlines()[0]
    assert first.startswith("**REGRESSED: 9.5% slower (between 9.4% and 9.6%) at 1024 (512 UNCHANGED")
    assert (project.pytester.path / "runs" / "bench.md").read_text() == step_summary.read_text()
    result = project.pytester.path / "runs" / "bench.json"
    assert len(json.loads(result.read_text())[KEY]["duets"]["pico"]["pairs"]) == 90
    load_session(result)  # it can be promoted all the same


def test_a_comparison_decides_side_by_side_where_stored_times_cannot(
    project: Project, side_by_side: list[dict[str, Any]]
) -> None:
    """Without a word about duets.

    Of noisy times a duet is made, of decided ones none, and --perf-duet=never makes none.
    """
    project.give = lambda: here(quiet(spread=0.08, seed=1))
    found = project.run("--benchmark-compare", "-k", "test_rate")
    found.assert_outcomes(passed=2, failed=1)
    (asked,) = side_by_side
    assert asked["sizes"] == list(SIZES)
    found.stdout.fnmatch_lines(["pico at 512, 1024, 2048: 3 runs each, of *", "REGRESSED: 9.5% slower*"])
    for arguments in (("--benchmark-compare", "--perf-duet=never"), ()):
        project.run(*arguments, "-k", "test_rate").assert_outcomes(skipped=3)
    project.give = lambda: here(quiet(seed=1))
    project.run("--benchmark-compare", "-k", "test_rate").assert_outcomes(passed=3)
    assert len(side_by_side) == 1


def test_only_the_batch_sizes_that_are_undecided_are_compared_again(
    project: Project, side_by_side: list[dict[str, Any]]
) -> None:
    """What stored times decided stays so; where the losses are others, the times do not matter."""

    def give() -> Session:
        whole, noisy = here(quiet(seed=1)), quiet(spread=0.08, seed=1)
        kept = {**whole.measurements, 512: noisy.measurements[512], 2048: noisy.measurements[2048]}
        runs = tuple(
            msgspec.structs.replace(run, losses=tuple(loss + 1 for loss in run.losses)) for run in kept[2048].runs
        )
        return msgspec.structs.replace(
            whole, measurements={**kept, 2048: msgspec.structs.replace(kept[2048], runs=runs)}
        )

    project.give = give
    found = project.run("--benchmark-compare", "-k", "test_rate or test_losses")
    assert [asked["sizes"] for asked in side_by_side] == [[512]]
    found.assert_outcomes(passed=4, failed=1, skipped=1)
    found.stdout.fnmatch_lines(["FAILED: losses at 2048: *"])


def test_where_the_baseline_is_noisy_it_is_run_again(project: Project, side_by_side: list[dict[str, Any]]) -> None:
    """The batch size whose stored rates spread by half is compared side by side, and no other."""
    whole, noisy = here(quiet()), quiet(spread=0.5)
    mixed = {**whole.measurements, 2048: noisy.measurements[2048]}
    project.write(msgspec.structs.replace(whole, measurements=mixed))
    project.give = lambda: here(quiet(seed=1))
    project.run("--benchmark-compare", "-k", "test_rate").assert_outcomes(passed=3)
    assert [asked["sizes"] for asked in side_by_side] == [[2048]]


def test_a_commit_is_compared_with_without_any_baseline(project: Project, side_by_side: list[dict[str, Any]]) -> None:
    """--perf-duet=SPEC: rates, losses and counters are judged side by side; a SPEC that is none is wrong usage."""
    baseline_path(project.baselines, "pico-cpu-fp32", fingerprint()).unlink()
    found = project.run("--perf-duet=git:main", "--perf-strict")
    assert [asked["recipes"][0].commit for asked in side_by_side] == ["main"]
    found.assert_outcomes(passed=13, failed=2)  # strict: scaling at 1024, which its rate explains
    for wrong in ("sometimes", "git:", "baseline:"):
        found = project.run(f"--perf-duet={wrong}")
        assert found.ret == pytest.ExitCode.USAGE_ERROR
        found.stderr.fnmatch_lines(["*--perf-duet*"])


def test_a_comparison_that_cannot_be_made_leaves_the_stored_verdict(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asked for a duet in so many words: the rate is INCONCLUSIVE with the reason; with --perf-duet it fails."""
    project.write(here(quiet()))
    project.give = lambda: here(quiet(spread=0.08, seed=1))

    def compared(*arguments: object, **options: object) -> DuetResult:
        raise MeasureError("baseline side: found no commit 'aaaa' here")

    monkeypatch.setattr("perf.app.bench.compared", compared)
    found = project.run("--benchmark-compare", "-k", "test_rate")
    found.assert_outcomes(skipped=3)
    assert found.ret == 0
    found.stdout.fnmatch_lines(["SKIPPED *INCONCLUSIVE: the runs vary*; --perf-duet: baseline side: found no commit*"])
    found = project.run("--benchmark-compare", "--perf-duet", "-k", "test_rate")
    found.assert_outcomes(failed=3)
    found.stdout.fnmatch_lines(["INCONCLUSIVE: rate at 512, 1024, 2048: --perf-duet: *"])
    whole, noisy = here(quiet(seed=1)), quiet(spread=0.08, seed=1)  # what stored times decided stays decided
    mixed = {**whole.measurements, 512: noisy.measurements[512]}
    project.give = lambda: msgspec.structs.replace(whole, measurements=mixed)
    project.run("--benchmark-compare", "-k", "test_rate").assert_outcomes(passed=2, skipped=1)


def test_a_stop_while_measuring_keeps_the_whole_rounds(project: Project) -> None:
    """Their rates are shown and their result is kept; the session ends with exit code 130."""

    def give() -> Session:
        whole = here(quiet(seed=1))
        kept = {s: msgspec.structs.replace(m, runs=m.runs[:2]) for s, m in whole.measurements.items()}
        return msgspec.structs.replace(whole, measurements=kept)

    project.give = give
    found = project.run("-k", "test_rate")
    assert found.ret == EXIT_STOPPED
    found.stdout.fnmatch_lines(["*512 *6,8*not judged*"])
    kept = load_session(project.pytester.path / "runs" / "bench.json").session
    assert [len(m.runs) for m in kept.measurements.values()] == [2, 2, 2]


def test_side_by_side_without_a_baseline_says_so(project: Project, side_by_side: list[dict[str, Any]]) -> None:
    """There is nothing to run beside: NO_BASELINE, as without the option, and exit code 0 for a first night."""
    baseline_path(project.baselines, "pico-cpu-fp32", fingerprint()).unlink()
    found = project.run("--benchmark-compare", "--perf-duet", "-k", "test_rate")
    found.assert_outcomes(skipped=3)
    assert found.ret == 0
    assert not side_by_side
    assert (project.pytester.path / "runs" / "bench.md").read_text().startswith("**NO_BASELINE: ")


def test_side_by_side_with_a_baseline_that_nobody_can_run_again_fails(
    project: Project, side_by_side: list[dict[str, Any]]
) -> None:
    """One that was measured with uncommitted changes is refused by name."""
    path = baseline_path(project.baselines, "pico-cpu-fp32", fingerprint())
    document = json.loads(path.read_text())
    document[KEY]["provenance"]["dirty"] = True
    path.write_text(json.dumps(document))
    found = project.run("--benchmark-compare", "--perf-duet", "-k", "test_rate")
    assert found.ret == pytest.ExitCode.TESTS_FAILED
    found.stdout.fnmatch_lines(["*--perf-duet: *was measured with uncommitted changes, and a clean commit is needed*"])


def test_a_night_that_could_not_tell_warns(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """INCONCLUSIVE does not fail a night; on GitHub it is a warning for each batch size."""
    project.write(here(quiet()))
    few = duet(dict.fromkeys(SIZES, 0.0), num_pairs=5)
    monkeypatch.setattr("perf.app.bench.compared", lambda *arguments, **options: few)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    found = project.run("--benchmark-compare", "--perf-duet", "-k", "test_rate")
    found.assert_outcomes(skipped=3)
    assert found.ret == 0
    assert len([line for line in found.outlines if line.startswith("::warning title=")]) == 3


def test_sides_that_learn_otherwise_fail_the_losses(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although their times and the stored losses are alike: LOSSES_DIFFER, in the claim and in the first line."""
    project.write(here(quiet()))
    far = msgspec.structs.replace(WORK, losses=tuple(loss + 0.01 for loss in WORK.losses))
    monkeypatch.setattr(
        "perf.app.bench.compared", lambda recipes, what, **options: duet(dict.fromkeys(what.sizes, 0.0), far)
    )
    found = project.run("--benchmark-compare", "--perf-duet", "-k", "(test_losses or test_rate) and 512")
    found.assert_outcomes(passed=1, failed=1)
    found.stdout.fnmatch_lines(
        ["LOSSES_DIFFER: side by side with *: not the same training: *", "LOSSES_DIFFER: not the same training at 512*"]
    )


def test_a_duet_that_is_stopped_shows_what_is_known(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pairs so far are in the report, the session says that it was stopped, and ends with exit code 130."""
    project.write(here(quiet()))
    early = msgspec.structs.replace(
        duet(dict.fromkeys(SIZES, 0.0), num_pairs=5),
        problem="ended after 15 pairs: stopped by a signal",
        interrupted=True,
    )
    monkeypatch.setattr("perf.app.bench.compared", lambda *arguments, **options: early)
    found = project.run("--benchmark-compare", "--perf-duet", "-k", "test_rate")
    assert found.ret == 130
    found.stdout.fnmatch_lines(
        ["stopped by a signal: what is missing was not measured", "*512 *INCONCLUSIVE", "ended after 15 pairs: *"]
    )
    assert "no rate was compared" not in found.stdout.str()


def test_the_summary_is_of_this_session_or_absent(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact claims alone have one; a session that is stopped while measuring leaves none of an earlier one."""
    path = project.pytester.path / "runs" / "bench.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("of an earlier night")
    project.run("-k", "test_loss_decreases")
    assert "earlier" not in path.read_text()
    assert ", commit " in path.read_text()

    def stopped(*arguments: object, **options: object) -> Session:
        raise KeyboardInterrupt

    monkeypatch.setattr("perf.app.bench.measure", stopped)
    found = project.run("--benchmark-compare")
    assert found.ret == 130
    assert not path.exists()
    found.stdout.fnmatch_lines(["stopped by a signal: what is missing was not measured"])
    assert "no rate was compared" not in found.stdout.str()


def test_side_by_side_without_a_batch_size_in_common_says_so(
    project: Project, side_by_side: list[dict[str, Any]]
) -> None:
    """The baseline has 512 alone, and 1024 is measured: NO_BASELINE, and no duet of nothing."""
    whole = here(quiet())
    project.write(msgspec.structs.replace(whole, measurements={512: whole.measurements[512]}))
    found = project.run("--benchmark-compare", "--perf-duet", "-k", "test_rate and 1024")
    found.assert_outcomes(skipped=1)
    found.stdout.fnmatch_lines(["SKIPPED *NO_BASELINE: *has no such batch size*"])
    assert not side_by_side


@pytest.mark.parametrize("value", ["0", "soon", "nan"])
def test_a_budget_that_is_none_is_wrong_usage(project: Project, value: str) -> None:
    """Before anything is measured."""
    found = project.run("--perf-duet", "-o", f"perf_duet_budget={value}")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*perf_duet_budget = *is no time of at least 1 s*"])


def test_what_failed_is_not_tried_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither measuring nor the comparison side by side: each takes minutes, and every test would repeat it."""
    tried = []

    def broken(*arguments: object, **options: object) -> Session:
        tried.append(arguments)
        raise MeasureError("the disk is full")

    monkeypatch.setattr("perf.app.bench.compared", broken)
    found = project.run("--perf-duet", "git:HEAD", "-k", "test_rate")
    assert len(tried) == 1
    found.stdout.fnmatch_lines(["*--perf-duet: the disk is full*"])
    monkeypatch.setattr("perf.app.bench.measure", broken)
    found = project.run("-k", "test_rate")
    assert len(tried) == 2
    found.stdout.fnmatch_lines(["*the disk is full*"])
