"""The commands that put two sides next to each other, with duets that take no time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from perf.app.duet import exit_code
from perf.app.side_by_side import _show, baseline_recipe, run_duet
from perf.app.what import What
from perf.cli import EXIT_USAGE, main
from perf.errors import EXIT_PROBLEM, BaselineError, MeasureError
from perf.judge import duets
from perf.judge.duets import DuetResult
from perf.judge.verdicts import Verdict
from perf.measure.duet import RUNS_PER_PAIR
from perf.measure.sides import HOME, Recipe, Side, parse_recipe
from perf.records.baselines import Baseline
from perf.records.sessions import FEWEST_STARTS, Mode, Pair
from perf.records.wire import PhaseTime, SideWork
from perf.report.sections import duration
from perf.runner.machine import fingerprint
from tests.judge.duet_noise import synthetic
from tests.judge.noise import session, step_times
from tests.report.test_duet import EXTRA, SLOWER, WORK, duet


def promoted(commit: str = "a" * 40, *, dirty: bool = False, **software: str) -> Baseline:
    """Return a baseline of this machine, measured with other software."""
    here = fingerprint()
    then = msgspec.structs.replace(here, software={**here.software, **software})
    return Baseline(
        path=Path("baselines/here/pico-cpu-fp32.json"),
        session=session(step_times(np.random.default_rng(0)), fingerprint=then),
        provenance={"date": "2026-11-23", "command": "pytest", "commit": commit, "dirty": dirty},
        promotions=[],
    )


def test_a_baselines_recipe_is_its_commit_and_the_versions_that_differ() -> None:
    """What is installed here already is not installed again; a build tag is no version."""
    asked = parse_recipe(["baseline:", "env:A=1"])
    same = baseline_recipe(asked, promoted())
    assert (same.commit, same.packages, same.environ) == ("a" * 40, (), {"A": "1"})
    older = baseline_recipe(asked, promoted(torch="2.12.1+cpu", numpy="2.2.0", python="3.12.1"))
    assert older.packages == ("torch==2.12.1", "numpy==2.2.0")


@pytest.mark.parametrize(
    ("commit", "dirty", "problem"), [("a" * 40, True, "uncommitted"), ("unknown", False, "'unknown'")]
)
def test_a_baseline_that_nobody_can_run_again_is_refused(commit: str, dirty: bool, problem: str) -> None:
    """Uncommitted changes are nowhere, and neither is a commit without a name."""
    with pytest.raises(BaselineError, match=problem):
        baseline_recipe(parse_recipe(["baseline:"]), promoted(commit, dirty=dirty))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Duets that take no time: 1024 and 2048 are slower. What they were asked for; their page is in `tmp_path`."""
    monkeypatch.setattr("perf.app.duet.shown", lambda path: tmp_path / path.name)
    asked: list[dict[str, Any]] = []

    def compared(recipes: tuple[Recipe, Recipe], what: What, *, threshold: float) -> DuetResult:
        asked.append({"recipes": recipes, "what": what, "threshold": threshold})
        return SLOWER

    monkeypatch.setattr("perf.app.duet.compared", compared)
    return asked


def test_a_duet_prints_and_keeps_what_it_found(
    shown: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The tables, then the line that says it all; raw values in the file; exit code 1 for REGRESSED."""
    file = tmp_path / "new" / "duet.json"
    command = [
        "duet",
        "--baseline",
        "git:HEAD~1",
        "--candidate",
        "self",
        "env:A=1",
        "--threshold",
        "2%",
        "--budget",
        "2m",
    ]
    assert main([*command, "--workload", "nano", "--global-batch-size", "64", "32", "--json", str(file)]) == 1
    (asked,) = shown
    assert asked["recipes"][1].environ == {"A": "1"}
    what = asked["what"]
    assert what.target.id == "nano"
    assert (what.sizes, asked["threshold"], what.budget_s, what.mode) == ([32, 64], 0.02, 120.0, None)
    assert what.precision in ("fp32", "auto")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("REGRESSED: 9.5% slower ")
    assert lines[-2:] == [f"raw values: {file}", f"page: {tmp_path / 'duet.html'}"]
    assert "REGRESSED: 9.5% slower" in (tmp_path / "duet.md").read_text()
    found = json.loads(file.read_text())["stepmark"]
    assert (found["kind"], found["workload"], len(found["pairs"])) == ("duet", "nano", 90)


@pytest.mark.parametrize(
    ("baseline", "candidate", "side"), [("baseline:", "pip:numpy==9.9", 0), ("self", "baseline:", 1)]
)
def test_the_promoted_commit_is_a_side(
    shown: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, baseline: str, candidate: str, side: int
) -> None:
    """Either one."""
    monkeypatch.setattr("perf.app.duet.load_baseline", lambda path: promoted())
    assert main(["duet", "--baseline", baseline, "--candidate", candidate]) == 1
    assert [recipe.commit for recipe in shown[0]["recipes"]] == ["a" * 40, ""][:: 1 - 2 * side]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a command in a project that is the current folder."""
    entry = "[command.shell]\nrun = 'bash train.sh {global_batch_size}'\nglobal_batch_sizes = [8, 16]\n"
    (tmp_path / "stepmark.toml").write_text(entry)
    monkeypatch.chdir(tmp_path)
    return "stepmark.toml:shell"


@pytest.mark.parametrize("option", [["--precision", "bf16"], ["--mode", "simultaneous"]])
@pytest.mark.parametrize("is_named", [True, False])
def test_what_only_a_command_can_decide_is_not_asked_of_it(
    command: str,
    shown: list[dict[str, Any]],
    option: list[str],
    is_named: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Named, or because it is all that the project has."""
    named = ["--workload", command] if is_named else []
    assert main(["duet", "--baseline", "self", *named, *option]) == EXIT_USAGE
    assert f"{command}: is a command, whose precision and mode are its own" in capsys.readouterr().err
    assert not shown
    assert main(["duet", "--baseline", "self", *named]) == 1
    assert shown[0]["what"].precision == ""


def test_a_command_without_a_baseline_is_told_how_to_make_one(
    command: str, shown: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """By the file that has it, and without a precision, which it refuses."""
    assert main(["duet", "--baseline", "baseline:", "--candidate", "self", "--workload", command]) == EXIT_PROBLEM
    assert "measure one: python -m pytest stepmark.toml::shell, then stepmark promote" in capsys.readouterr().err
    assert not shown


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    shown: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder is no file, and below a file there is no place for one."""
    assert main(["duet", "--baseline", "self", "--candidate", "self", "--json", str(tmp_path)]) == EXIT_USAGE
    assert f"--json {tmp_path}: no file can be written there" in capsys.readouterr().err
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "a" / "b.json"
    assert main(["duet", "--baseline", "self", "--candidate", "self", "--json", str(below)]) == EXIT_USAGE
    assert f"--json {below}: no file can be written there" in capsys.readouterr().err
    assert not shown


def test_a_file_that_cannot_be_written_after_all_costs_the_file_only(
    shown: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report is printed, then the error."""

    def full(path: Path, content: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("perf.app.duet.write_json", full)
    file = tmp_path / "duet.json"
    assert main(["duet", "--baseline", "self", "--candidate", "self", "--json", str(file)]) == EXIT_PROBLEM
    captured = capsys.readouterr()
    assert "REGRESSED: 9.5% slower" in captured.out
    assert "no space left" in captured.err


def test_one_core_cannot_be_shared(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Asking for both at once where that cannot be is one line, before anything is started."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
    assert main(["duet", "--baseline", "self", "--candidate", "self", "--mode", "simultaneous"]) == EXIT_PROBLEM
    assert "needs two cores" in capsys.readouterr().err


class Scripted:
    """A duet whose pairs are synthetic, and whose sides do the work a test wants."""

    mode, is_whole = Mode.SIMULTANEOUS, False
    run_s: Mapping[int, float] = {}
    sides = (Side(name="baseline", text="self", workload="pico", command=(), root=HOME, environ={}),) * 2

    def __init__(self, effects: dict[int, float], work: tuple[SideWork, SideWork]) -> None:
        self._effects, self._work = effects, work
        self._rng = np.random.default_rng(0)
        self.attributed: list[int] = []
        self.elapsed_s = self.start_s = 0.0
        self.fails_after_s, self.failure = np.inf, BaseException()
        self.attribution_failure: BaseException | None = None

    def work(self) -> dict[int, tuple[SideWork, SideWork]]:
        """Return the same at every batch size."""
        return dict.fromkeys(self._effects, self._work)

    def start(self, sizes: list[int], *, budget_s: float, on_pair: Callable[[Pair], object]) -> list[Pair]:
        """Return three pairs of each batch size with the measured noise."""
        pairs = []
        for size in sizes:
            for effect in synthetic(self._rng, start_sd=0.005, effect=self._effects[size])(3):
                self.elapsed_s += 1.5
                if self.elapsed_s > self.fails_after_s:
                    raise self.failure
                pairs.append(
                    Pair(
                        global_batch_size=size,
                        start=0,
                        ended_s=self.elapsed_s,
                        effect=effect,
                        baseline=((0.0, 1.0),),
                        candidate=((0.0, 1.0),),
                    )
                )
                on_pair(pairs[-1])
        return pairs

    def attribution(self, size: int) -> tuple[list[list[PhaseTime]], list[list[PhaseTime]]]:
        """Return one operation that takes twice as long."""
        self.attributed.append(size)
        if self.attribution_failure:
            raise self.attribution_failure
        rows = [[PhaseTime(phase="clip", operation="aten::mul float32", count=1, seconds=s)] for s in (1.0, 2.0)]
        return [rows[0]] * 5, [rows[1]] * 5


@pytest.mark.parametrize(
    ("effects", "work", "attributed"),
    [
        ({512: 0.0, 1024: 0.0}, (WORK, WORK), []),
        ({512: 0.0, 1024: -0.1}, (WORK, WORK), [1024]),
        ({512: 0.0}, (WORK, EXTRA), [512]),
    ],
    ids=["nothing", "slower", "other work"],
)
def test_why_is_asked_where_something_differs(
    effects: dict[int, float], work: tuple[SideWork, SideWork], attributed: list[int]
) -> None:
    """Of the batch size with the largest effect, when times or work differ; else not at all."""
    scripted = Scripted(effects, work)
    seen: list[tuple[Pair, float]] = []  # the latest pair of each call
    budget_s = 60.0 * len(effects)
    found = run_duet(
        scripted,
        mode_reason="",
        threshold=0.02,
        budget_s=budget_s,
        on_pair=lambda pairs, budget_s: seen.append((pairs[-1], budget_s)),
    )
    assert scripted.attributed == attributed == list(found.contributions)
    assert seen == [(pair, budget_s) for pair in found.pairs]
    assert found.judgements[512].verdict in (Verdict.UNCHANGED, Verdict.INCONCLUSIVE)
    if attributed:
        assert found.contributions[attributed[0]][0].phase == "clip"
    assert duets.work_differences(work) == (["+5 aten::mm"] if work[1] is EXTRA else [])


@pytest.mark.parametrize(("software", "timed"), [({}, False), ({"torch": "9.9"}, True)])
def test_another_training_is_timed_only_with_other_software(
    monkeypatch: pytest.MonkeyPatch, software: dict[str, str], timed: bool
) -> None:
    """A change of code that alters the losses is told at once; an upgrade is timed all the same.

    Both are LOSSES_DIFFER. What is not timed takes no part of the budget.
    """
    other = msgspec.structs.replace(
        WORK, losses=tuple(loss + 0.01 for loss in WORK.losses), software={**WORK.software, **software}
    )
    found = run_duet(Scripted({512: -0.1}, (WORK, other)), mode_reason="", threshold=0.02, budget_s=60.0)
    assert bool(found.pairs) == (512 in found.judgements) == timed
    assert found.verdict(512) is Verdict.LOSSES_DIFFER
    beside = Scripted({512: 0.0, 1024: 0.0}, (WORK, WORK))
    monkeypatch.setattr(beside, "work", lambda: {512: (WORK, WORK), 1024: (WORK, other)})
    budgets: set[float] = set()
    run_duet(beside, mode_reason="", threshold=0.02, budget_s=120.0, on_pair=lambda _, budget_s: budgets.add(budget_s))
    assert budgets == {120.0 if timed else 60.0}


def test_a_duet_of_commands_says_what_it_needs_before_it_is_spent(capsys: pytest.CaptureFixture[str]) -> None:
    """A run takes 2 s at one batch size and 10 s at the other; both need as many."""
    least_s = RUNS_PER_PAIR * FEWEST_STARTS * (2.0 + 10.0)
    whole = Scripted({512: 0.0, 1024: 0.0}, (WORK, WORK))
    whole.is_whole, whole.run_s = True, {512: 2.0, 1024: 10.0}
    budgets: dict[str, Any] = {"mode_reason": "", "threshold": 0.02, "budget_option": "--give {:.0f}s"}
    with pytest.raises(MeasureError, match=f"a verdict needs .* of each size: give it --give {least_s / 2:.0f}s$"):
        run_duet(whole, budget_s=least_s - 1, **budgets)
    assert not whole.elapsed_s
    assert not capsys.readouterr().out
    assert run_duet(whole, budget_s=least_s, **budgets).pairs
    lines = capsys.readouterr().out.splitlines()
    runs = RUNS_PER_PAIR * FEWEST_STARTS
    needed = f"A run takes about 10 s, and a verdict needs {runs} of each size: at least {duration(least_s)} in all."
    assert lines == [needed]


def test_commands_whose_losses_differ_need_no_budget(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is timed."""
    other = msgspec.structs.replace(WORK, losses=tuple(loss + 0.01 for loss in WORK.losses))
    whole = Scripted({512: 0.0}, (WORK, other))
    whole.is_whole, whole.run_s = True, {512: 1000.0}
    assert run_duet(whole, mode_reason="", threshold=0.02, budget_s=1.0).verdict(512) is Verdict.LOSSES_DIFFER
    assert not capsys.readouterr().out


@pytest.mark.parametrize("failure", [MeasureError("candidate side (self): ended by SIGKILL"), KeyboardInterrupt()])
def test_what_was_measured_survives_what_comes_after(failure: BaseException) -> None:
    """A side that fails, or Ctrl-C, after some pairs or in the attribution costs only what was not yet known."""
    late = Scripted({512: -0.1}, (WORK, WORK))
    late.fails_after_s, late.failure = 20.0, failure
    found = run_duet(late, mode_reason="", threshold=0.02, budget_s=60.0)
    assert len(found.pairs) == 13
    assert found.judgements[512].effect.num_runs == 12
    assert found.problem.startswith("ended after 13 pairs: ")
    assert found.interrupted == isinstance(failure, KeyboardInterrupt)

    slower = Scripted({512: -0.1}, (WORK, WORK))
    slower.attribution_failure = failure
    found = run_duet(slower, mode_reason="", threshold=0.02, budget_s=60.0)
    assert found.judgements[512].verdict is Verdict.REGRESSED
    assert found.attribution_problem.startswith("where the time differs is not known: ")
    assert not found.problem

    early = Scripted({512: -0.1}, (WORK, WORK))
    early.fails_after_s, early.failure = 0.0, failure
    with pytest.raises(type(failure)):
        run_duet(early, mode_reason="", threshold=0.02, budget_s=60.0)


def test_the_exit_code_is_that_of_the_worst_verdict() -> None:
    """A signal comes first, then what differs, then a problem, then what is not known."""
    same, few = duet({512: 0.0}), duet({512: 0.0}, num_pairs=5)
    ended = msgspec.structs.replace(few, problem="candidate side (self): ended by SIGKILL")
    other = duet({512: 0.0}, msgspec.structs.replace(WORK, losses=tuple(loss + 0.01 for loss in WORK.losses)))
    found = [same, SLOWER, other, few, ended, msgspec.structs.replace(ended, interrupted=True)]
    assert [exit_code(result) for result in found] == [0, 1, 1, 4, 3, 130]


def test_progress_is_printed_once_in_each_quarter() -> None:
    """After each quarter of the budget, with what the pairs show so far and the time that is left."""

    class Bar:
        """A bar that keeps what it is given."""

        n = total = 0.0
        lines: ClassVar[list[str]] = []

        def update(self, seconds: float) -> None:
            """Go on."""
            self.n += seconds

        def write(self, line: str, file: object) -> None:
            """Print a line."""
            self.lines.append(line)

    bar = Bar()
    marks = ((0.0, 1.0),)
    pairs = [
        Pair(global_batch_size=8, start=0, ended_s=ended_s, effect=0.0, baseline=marks, candidate=marks)
        for ended_s in (10.0, 20.0, 30.0, 40.0, 80.0, 90.0, 120.0)
    ]
    for number in range(1, len(pairs) + 1):
        _show(bar, pairs[:number], 100.0)
    assert bar.n == bar.total == 100.0
    assert [line.split(": ", 1)[1] for line in bar.lines] == [f"8: +0.0% in {n} pairs" for n in (3, 5, 7)]
