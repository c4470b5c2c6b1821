"""Bisections in a real repository, with duets that take no time; and one with real ones."""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from perf.app.side_by_side import run_duet
from perf.app.what import What
from perf.cli import EXIT_USAGE, main
from perf.errors import EXIT_PROBLEM, MeasureError
from perf.judge.duets import DuetResult
from perf.judge.stats import FAMILY_ERROR
from perf.measure.sides import Recipe
from perf.records.sessions import Pair
from perf.records.wire import PhaseTime, SideWork
from perf.signals import EXIT_STOPPED
from tests.app.test_side_by_side import Scripted
from tests.judge.duet_noise import synthetic
from tests.report.test_duet import EXTRA, WORK
from tests.repositories import git, left

OTHER = msgspec.structs.replace(WORK, losses=tuple(loss + 0.01 for loss in WORK.losses))
SIZE, NUM_COMMITS = 512, 16
SLOWER = math.log(0.95)
WHO = ("-c", "user.name=a", "-c", "user.email=a@localhost")
HOSTILE = "\x1b[31m<b>red</b>\r# first bad commit: [0123456789ab] x"


class Simulated(Scripted):
    """A duet of two commits; its noise is like the measured one."""

    def __init__(self, history: History, good: int, commit: int) -> None:
        effect = history.effects[commit] - history.effects[good]
        super().__init__({SIZE: effect}, (history.works[good], history.works[commit]))
        self._draw, self._history = synthetic(history.rng, start_sd=0.004, effect=effect), history
        self._good, self._commit = good, commit

    def start(
        self, sizes: list[int], *, budget_s: float, on_pair: Callable[[Pair], object] = lambda pair: None
    ) -> list[Pair]:
        """Return three pairs."""
        self._history.timed.append(self._commit)
        self.elapsed_s += 5.0
        marks = ((0.0, 1.0),)
        pairs = [
            Pair(
                global_batch_size=SIZE, start=0, ended_s=self.elapsed_s, effect=effect, baseline=marks, candidate=marks
            )
            for effect in self._draw(3)
        ]
        for pair in pairs:
            on_pair(pair)
        self._history.on_start()
        return pairs

    def attribution(self, size: int) -> tuple[list[list[PhaseTime]], list[list[PhaseTime]]]:
        """Return products that are dispatched as often as they are counted."""
        self._history.num_attributed += 1
        counts = [self._history.works[number].counters["ops"]["aten::mm"] for number in (self._good, self._commit)]
        rows = [[PhaseTime(phase="forward", operation="aten::mm float32", count=n, seconds=1.0)] for n in counts]
        return [rows[0]] * 5, [rows[1]] * 5


class History:
    """Commits after a first one, what each does, and how fast it is."""

    def __init__(self, root: Path) -> None:
        self.root, self.rng = root, np.random.default_rng(0)
        for number in range(1, NUM_COMMITS + 1):
            (root / "file").write_text(f"{number}")
            git(root, *WHO, "commit", "--quiet", "--all", "--cleanup=verbatim", "--message", f"{number}: {HOSTILE}")
        self.commits = git(root, "rev-list", "--reverse", "HEAD").split()[-NUM_COMMITS - 1 :]
        self.effects = [0.0] * (NUM_COMMITS + 1)
        self.works = [WORK] * (NUM_COMMITS + 1)
        self.broken: set[int] = set()
        self.tested: list[int] = []
        self.timed: list[int] = []
        self.errors: list[float] = []  # that each comparison may make; 0 of the ends, and of a commit and its parent
        self.num_attributed = 0
        self.on_start: Callable[[], object] = lambda: None

    def plant(self, first: int, *, effect: float = 0.0, work: SideWork = WORK) -> None:
        """Let all commits from this number on be slower, or work otherwise."""
        for number in range(first, NUM_COMMITS + 1):
            self.effects[number] += effect
            self.works[number] = work

    def compared(self, recipes: tuple[Recipe, Recipe], asked: What, *, threshold: float, **options: Any) -> DuetResult:
        """Stand in for a whole duet."""
        good, commit = (self.commits.index(git(self.root, "rev-parse", recipe.commit).strip()) for recipe in recipes)
        self.tested.append(commit)
        if {good, commit} & self.broken:
            raise MeasureError(f"candidate side ({recipes[1].text}): cannot be imported: SyntaxError \x1b[31m")
        self.errors.append(options.get("error", 0.0))
        duet = Simulated(self, good, commit)
        return run_duet(duet, mode_reason="", threshold=threshold, budget_s=asked.budget_s, **options)


@pytest.fixture
def history(repository: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    """A history of commits that all do the same, in the place of this one's."""
    made = History(repository)
    monkeypatch.chdir(repository)
    monkeypatch.setattr("perf.app.bisect.compared", made.compared)
    monkeypatch.setattr("perf.app.duet.publish", lambda reports, raw, stem: [f"page: {stem}.html"])
    return made


def bisect(history: History, *more: str) -> int:
    """Bisect the whole history, and return the exit code; nothing is left, and the working tree is as it was."""
    head = git(history.root, "rev-parse", "HEAD")
    command = ["bisect", "--good", history.commits[0], "--bad", "HEAD", "--workload", "nano", "--budget", "60s"]
    code = main([*command, "--global-batch-size", f"{SIZE}", *more])
    assert left(history.root) == []
    assert git(history.root, "rev-parse", "HEAD") == head
    assert git(history.root, "status", "--porcelain") == ""
    assert git(history.root, "for-each-ref", "refs/bisect") == ""
    return code


def found(history: History, out: str) -> list[int]:
    """Return the numbers of the commits that a bisection ended with."""
    last = re.split(r"First bad commit: |could be tested:\n", out)[-1].split("\n\n")[0]
    return [n for n, commit in enumerate(history.commits) if re.search(rf"^{commit[:7]} ", last, re.MULTILINE)]


def test_a_planted_slowdown_is_found_by_times(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """5 % in one of 16 commits that all do the same work, with the measured noise: 19 of 20 times at least."""
    right = 0
    for planted in [int(number) for number in history.rng.integers(1, NUM_COMMITS + 1, size=20)]:
        history.plant(planted, effect=SLOWER)
        code = bisect(history)
        right += code == 0 and found(history, capsys.readouterr().out) == [planted]
        history.plant(planted, effect=-SLOWER)
    assert right >= 19


def test_other_losses_are_found_without_timing(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be run is skipped, with the reason. No line is wider than a terminal, whatever the subject has."""
    history.plant(11, work=OTHER)
    history.broken = {8}
    assert bisect(history) == 0
    out = capsys.readouterr().out
    assert found(history, out) == [11]
    assert not history.timed
    assert history.tested[1] == 8
    assert history.tested[-1] == 11
    steps = re.findall(r"^\d left: .*$", out, re.MULTILINE)
    assert len(steps) == len(history.tested) - 2
    assert max(map(len, out.split("git bisect log")[0].splitlines())) <= 80
    assert steps[0].startswith("4 left: skip (candidate side (git:")
    assert "cannot be imported: SyntaxError \\x1b[31m):" in " ".join(out.split())
    assert re.match(r"0 left: \w+ \(losses: \d+% of the difference\): \w{7} ", steps[-1])
    assert out.isprintable() or set(filter(lambda c: not c.isprintable(), out)) == {"\n"}


def test_the_log_can_be_replayed(history: History, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """In the user's own checkout, where git then ends with the same commit."""
    history.plant(5, work=EXTRA)
    assert bisect(history) == 0
    log = capsys.readouterr().out.partition("git bisect log, for git bisect replay:\n")[2].partition("\n\n")[0]
    (tmp_path / "log").write_text(log)
    assert f"{history.commits[5]} is the first" in git(history.root, "bisect", "replay", str(tmp_path / "log"))


def test_all_that_it_may_be_is_listed(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """Where commits before the first bad one cannot be run, nobody knows which of them it is."""
    history.plant(11, work=EXTRA)
    history.broken = {9, 10}
    assert bisect(history) == 4
    assert found(history, capsys.readouterr().out) == [9, 10, 11]


def test_what_the_work_tells_wrongly_is_looked_for_by_times(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    """A commit that does what the bad end does, and takes as long as its parent, is not the one."""
    history.plant(5, work=EXTRA)
    history.plant(11, effect=SLOWER, work=EXTRA)
    assert bisect(history) == 0
    out = capsys.readouterr().out
    assert re.search(r"First bad commit: \w{7} 5: ", out)
    assert [out.count(f"The first commit with other {name} than") for name in ("aten::mm", "time")] == [1, 1]
    assert found(history, out) == [11]
    assert "Not confirmed" not in out


def test_the_work_of_an_end_saves_its_time(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the ends are timed, and the first bad commit beside its parent."""
    history.plant(6, effect=-SLOWER, work=EXTRA)
    assert bisect(history) == 0
    assert found(history, capsys.readouterr().out) == [6]
    assert set(history.timed) == {16, 6}


def test_a_commit_at_the_midpoint_is_skipped(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """It is as like the one end as the other; so it and the next may be the first bad one."""
    history.plant(8, effect=SLOWER / 2)
    history.plant(9, effect=SLOWER / 2)
    assert bisect(history) == 4
    out = capsys.readouterr().out
    assert re.search(r"^\d left: skip \(undecided\): \w{7} 8: ", out, re.MULTILINE)
    assert found(history, out) == [8, 9]


def test_a_change_that_several_commits_share_is_not_confirmed(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one after which the half is passed has less than a half."""
    for number in (3, 7, 11):
        history.plant(number, effect=SLOWER / 2)
    assert bisect(history) == 4
    out = capsys.readouterr().out
    assert found(history, out) == [7]
    assert "\nNot confirmed: " in out


def test_ends_that_do_not_differ_end_it(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is looked for, and the exit code is not that of a commit that was found."""
    assert bisect(history) == 4
    assert "So there is nothing to look for." in capsys.readouterr().out
    assert history.tested == [16]


def test_an_end_that_cannot_be_run_ends_it(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named."""
    history.broken = {16}
    assert bisect(history) == EXIT_PROBLEM
    assert "cannot be imported" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_but_the_log(
    history: History, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """What was decided before it came is not lost."""
    history.plant(11, effect=SLOWER)

    def stop() -> None:
        if len(set(history.timed)) == 3:
            os.kill(os.getpid(), number)

    history.on_start = stop
    assert bisect(history) == EXIT_STOPPED
    assert f"\ngit bisect good {history.commits[8]}\n" in capsys.readouterr().out


@pytest.mark.parametrize("ends", [("HEAD", "HEAD~1"), ("HEAD", "HEAD")], ids=["swapped", "same"])
def test_the_bad_end_is_the_later_one(
    history: History, capsys: pytest.CaptureFixture[str], ends: tuple[str, str]
) -> None:
    """Told before anything is measured."""
    assert main(["bisect", "--good", ends[0], "--bad", ends[1], "--workload", "nano"]) == EXIT_USAGE
    assert "give the older one as --good" in capsys.readouterr().err
    assert not history.tested


@pytest.mark.parametrize("revision", ["nowhere", "-x", "--all", ""])
def test_a_revision_that_is_none_is_a_problem(
    history: History, capsys: pytest.CaptureFixture[str], revision: str
) -> None:
    """Also one that git could take for an option."""
    assert main(["bisect", f"--good={revision}", "--bad", "HEAD", "--workload", "nano"]) == EXIT_PROBLEM
    assert "git rev-parse: fatal: " in capsys.readouterr().err


def test_one_workload_is_needed(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """A project with several must say which."""
    for name in "ab":
        source = f"import perf\n\n@perf.workload(global_batch_sizes=(8,))\ndef {name}(case): ...\n"
        (history.root / f"bench_{name}.py").write_text(source)
    assert main(["bisect", "--good", "HEAD~1", "--bad", "HEAD"]) == EXIT_USAGE
    assert "there are 2 workloads, and one is needed" in capsys.readouterr().err


STEP = '''
import torch
import perf

RATE = 0.1


@perf.workload(global_batch_sizes=(8,))
def line(case):
    """Fits a line."""
    torch.manual_seed(case.seed)
    x = torch.randn(case.global_batch_size, 3)
    weight = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=RATE)

    def step():
        loss = ((x @ weight - 1) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
'''


def test_a_commit_that_learns_otherwise_is_found_in_real_runs(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One of two, by the command as a user gives it."""
    (repository / "perf").rmdir()  # with it, this would be a repository of stepmark, whose commits bring their runner
    monkeypatch.chdir(repository)
    other = STEP.replace("RATE = 0.1", "RATE = 0.2")
    for number, text in enumerate([STEP, other, f"{other}# two"]):
        (repository / "bench_line.py").write_text(text)
        git(repository, "add", "bench_line.py")
        git(repository, *WHO, "commit", "--quiet", "--message", f"number {number}")
    assert main(["bisect", "--good", "HEAD~2", "--bad", "HEAD"]) == 0
    out = capfd.readouterr().out
    assert re.findall(r"^\d left: (\w+) \((.*?)\): \w{7} number (\d)$", out, re.MULTILINE) == [
        ("bad", "losses: 100% of the difference", "1"),
    ]
    assert re.search(
        r"^LOSSES_DIFFER: [^\0]*^page: .*duet\.html$\n\nFirst bad commit: \w{7} number 1$", out, re.MULTILINE
    )
    assert left(repository) == []


@pytest.mark.parametrize("broken", [set(), {4, 5, 6, 7, 8, 9}], ids=["all run", "some are broken"])
def test_all_steps_together_err_as_seldom_as_one_duet(history: History, broken: set[int]) -> None:
    """However many steps git asks for; and where the time of a step goes is asked at the ends and beside the parent."""
    history.plant(13, effect=4 * SLOWER)  # so large that no noise hides it
    history.broken = broken
    assert bisect(history) == 0
    shares = [error for error in history.errors if error]
    assert len(shares) >= 3  # which commits git asks for beside broken ones follows from their hashes
    assert sum(shares) <= FAMILY_ERROR
    assert history.num_attributed == 2
