"""Pairs of runs: who steps when, what is taken from the marks, and what becomes of a side that misbehaves."""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.errors import MeasureError
from perf.judge.duets import not_compared, work_differences
from perf.measure import duet as duet_module
from perf.measure import runners as runners_module
from perf.measure.duet import BLOCKS, Duet, choose_mode
from perf.measure.runners import Runner
from perf.measure.sides import HOME, Side, parse_recipe, prepared
from perf.records.sessions import Mode, Pair, alternating_effect, simultaneous_effect
from perf.records.wire import REQUESTS, VERSION, CaseSpec, Counted, Stepped, Waiting

WORKLOAD = "tests.workloads:small"

SIZES = (8, 16)

NUM_STEPS = 60
"""Long enough for some swaps of the cores."""


CASES = {size: CaseSpec(global_batch_size=size) for size in SIZES}


def duet_of(sides: tuple[Side, Side], mode: Mode) -> Duet:
    """Return a duet of two batch sizes, on one thread each."""
    return Duet(sides, CASES, mode=mode, cores={0, 1}, num_threads=1, rng=np.random.default_rng(0))


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs in turns be as short as they may be."""
    monkeypatch.setattr(duet_module, "RUN_S", 0.1)


def measure(sides: tuple[Side, Side], mode: Mode, num_pairs: int) -> list[Pair]:
    """Return so many pairs."""
    duet = duet_of(sides, mode)
    duet.pairs_per_start = num_pairs // len(SIZES)
    return duet.start(SIZES, budget_s=1000.0)


@pytest.fixture(scope="module")
def own() -> Iterator[tuple[Side, Side]]:
    """The working tree, twice."""
    with (
        prepared(parse_recipe(["self"]), "baseline", HOME, WORKLOAD, os.environ) as baseline,
        prepared(parse_recipe(["self"]), "candidate", HOME, WORKLOAD, os.environ) as candidate,
    ):
        yield baseline, candidate


@pytest.mark.usefixtures("short_runs")
def test_in_turns_no_side_runs_while_the_other_is_timed(own: tuple[Side, Side]) -> None:
    """The slices of both sides, by one clock, never overlap; they come in blocks of ABBA or BAAB, as many of each."""
    pairs = measure(own, Mode.ALTERNATING, 4)
    starts = set()
    for pair in pairs:
        slices = [(marks[0], marks[-1], "a") for marks in pair.baseline]
        slices += [(marks[0], marks[-1], "b") for marks in pair.candidate]
        slices.sort()
        assert all(before[1] <= after[0] for before, after in pairwise(slices))
        order = "".join(side for _, _, side in slices)
        blocks = [order[i : i + 4] for i in range(0, len(order), 4)]
        assert len(blocks) == BLOCKS
        assert set(blocks) <= {"abba", "baab"}
        starts.update(blocks)
    assert starts == {"abba", "baab"}
    assert {pair.global_batch_size for pair in pairs[:2]} == set(SIZES)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a system that can pin a process to a core")
def test_at_once_both_sides_run_all_the_time(own: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch) -> None:
    """Their marks overlap, and the halves of the cores are disjoint and change hands while they run."""
    monkeypatch.setattr(
        duet_module, "RUN_S", NUM_STEPS
    )  # of steps that take a second: so many, however slow warming up was
    waiting = Runner.waiting
    monkeypatch.setattr(Runner, "waiting", lambda self: Waiting(pid=waiting(self).pid, step_s=1.0))
    pinned: list[tuple[int, frozenset[int]]] = []

    def pin(task: int, cores: set[int]) -> None:
        pinned.append((task, frozenset(cores)))  # a machine of the tests may have one core

    monkeypatch.setattr(duet_module.os, "sched_setaffinity", pin)
    pairs = measure(own, Mode.SIMULTANEOUS, 2)
    for pair in pairs:
        (baseline,), (candidate,) = pair.baseline, pair.candidate
        assert len(baseline) == len(candidate) == NUM_STEPS + 1
        assert max(baseline[0], candidate[0]) < min(baseline[-1], candidate[-1])
    tasks = list(dict.fromkeys(task for task, _ in pinned))
    by_task = {task: [cores for who, cores in pinned if who == task] for task in tasks}
    assert len(pairs) * 2 <= len(tasks)  # fresh processes for every pair
    assert {cores for _, cores in pinned} == {frozenset({0}), frozenset({1})}
    assert all(before != after for cores in by_task.values() for before, after in pairwise(cores))


class Still:
    """A side's runner that steps as soon as it is looked at."""

    def tell(self, num_steps: int) -> None:
        """Begin."""

    def stepped(self) -> Stepped:
        """Return one step."""
        return Stepped(marks=(0.0, 1.0), losses=(7.6,))


@pytest.mark.parametrize("num_swaps", [3, 8, 81])
def test_no_side_is_moved_first_more_often(
    own: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch, num_swaps: int
) -> None:
    """The side that is moved first waits for the other.

    Each is moved first equally often, in both directions of a swap.
    """
    moved: list[tuple[int, int]] = []
    monkeypatch.setattr(duet_module, "Path", lambda path: Tasks(path.split("/")[2]))
    monkeypatch.setattr(
        duet_module.os, "sched_setaffinity", lambda task, cores: moved.append((task, *cores)), raising=False
    )
    duet = duet_of(own, Mode.SIMULTANEOUS)
    begun = set()
    for _ in range(20):
        moved.clear()
        runners = [Still(), Still()]
        ready = iter([*[([], [], [])] * num_swaps, (runners, [], [])])
        monkeypatch.setattr(duet_module.select, "select", lambda *_, ready=ready: next(ready))
        duet._at_once(runners, [11, 22], 1)
        firsts = moved[::2]
        assert len(firsts) == num_swaps + 1
        counts = [firsts.count((pid, core)) for pid in (11, 22) for core in (0, 1)]
        assert max(counts) - min(counts) <= 1
        assert all({task for task, _ in turn} == {11, 22} for turn in zip(moved[::2], moved[1::2], strict=True))
        assert all({core for _, core in turn} == {0, 1} for turn in zip(moved[::2], moved[1::2], strict=True))
        begun.add(firsts[0])
    assert len(begun) == 4


class Tasks:
    """The threads of a process: one, of its own number."""

    def __init__(self, pid: str) -> None:
        self._pid = pid

    def iterdir(self) -> list[Path]:
        """Return the only one."""
        return [Path(self._pid)]


def test_no_side_is_started_first_more_often(own: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is drawn anew for each start."""
    firsts = []

    def started(stack: object, side: Side) -> None:
        firsts.append(side.command)
        raise MeasureError("enough")

    monkeypatch.setattr(duet_module, "Runner", started)
    sides = (own[0], msgspec.structs.replace(own[1], command=("other",)))
    duet = duet_of(sides, Mode.SIMULTANEOUS)
    for _ in range(100):
        with pytest.raises(MeasureError, match="enough"):
            duet.start(SIZES, budget_s=60.0)
    assert 35 <= firsts.count(("other",)) <= 65


def test_both_sides_do_the_same_work(own: tuple[Side, Side]) -> None:
    """Of the same code, counters and losses are equal to the last digit at every batch size."""
    found = duet_of(own, Mode.ALTERNATING).work()
    assert list(found) == list(SIZES)
    for baseline, candidate in found.values():
        assert baseline == candidate
        assert len(baseline.losses) == duet_module.COMPARED_STEPS


def checkout(folder: Path, name: str, **edits: tuple[str, str]) -> Side:
    """Return a side that runs a copy of this package with some files edited: a commit with a field more."""
    shutil.copytree(HOME / "perf", folder / name / "perf", ignore=shutil.ignore_patterns("__pycache__"))
    for file, (before, after) in edits.items():
        path = folder / name / "perf" / f"{file.replace('__', '/')}.py"
        text = path.read_text()
        assert text.count(before) == 1
        path.write_text(text.replace(before, after))
    shutil.copy(HOME / "tests" / "workloads.py", folder / name)
    environ = {**os.environ, "PYTHONPATH": str(folder / name)}
    command = (sys.executable, "-P", "-m", "perf.runner", "--workload", "workloads.py:small")
    return Side(name=name, text="git:other", workload="small", command=command, root=folder / name, environ=environ)


@pytest.mark.usefixtures("short_runs")
def test_commits_with_other_fields_can_be_compared(tmp_path: Path) -> None:
    """A workload with a field more on one side, a counter more on the other: both run, and neither is called equal."""
    later_workload = checkout(
        tmp_path, "baseline", train__workloads=("    dropout: float", "    rope: bool = True\n    dropout: float")
    )
    later_counter = checkout(
        tmp_path,
        "candidate",
        records__sessions=(
            "    optimizer_updates: Count",
            "    graph_breaks: int = 3\n    optimizer_updates: Count",
        ),
        records__wire=("VERSION = ", "VERSION = 1 + "),
    )
    duet = duet_of((later_workload, later_counter), Mode.ALTERNATING)
    duet.pairs_per_start = 1
    work = duet.work()[8]
    assert not_compared(work) == ["workload.rope", "graph_breaks"]
    assert work_differences(work) == []
    assert work[0].losses == work[1].losses
    assert len(duet.start(SIZES, budget_s=1.0)) == len(SIZES)


READY = json.dumps({"event": "ready", "protocol": VERSION, "can": REQUESTS})
WAITING = '{"event": "waiting", "pid": %d, "step_s": 1.0, "losses": []}'


BEHAVES = f"print('{READY}', flush=True); input(); print('{WAITING}' % os.getpid(), flush=True); input()"


def scripted(folder: Path, baseline: str, candidate: str) -> tuple[Side, Side]:
    """Return sides that are a few lines of Python each."""
    sides = []
    for name, code in (("baseline", baseline), ("candidate", candidate)):
        (folder / name).write_text(f"import os, signal, sys\n{code}\n")
        command = (sys.executable, str(folder / name))
        sides.append(
            Side(name=name, text="git:bad", workload="net", command=command, root=folder, environ=dict(os.environ))
        )
    return sides[0], sides[1]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("sys.exit('no such module')", "ended with exit code 1; its last lines: no such module"),
        ("os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
        ("print('Hello'); input()", "said b'Hello', which is no answer"),
        ("print([1]); input()", "said b'[1]', which is no answer: Expected `object`, got `array`"),
        (
            'print(\'{"event": "ready"}\'); input()',
            f"speaks version 0 of the wire, and {VERSION} or later is needed",
        ),
        ('print(\'{"event": "ended"}\'); input()', "ended with exit code None"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 1)", "ended with exit code -"),
        ("print('[' * 100000); input()", "Expected `object`, got `array`"),
        (
            'print(\'{"event": "ready", "protocol": 1}\'); input()',
            f"speaks version 1 of the wire, and {VERSION} or later",
        ),
        (
            f"print('{json.dumps({'event': 'ready', 'protocol': VERSION, 'can': ['count']})}', flush=True); input()",
            "cannot be asked to run; use a commit whose sides can",
        ),
        (
            f"print('{READY}', flush=True); input(); print('{WAITING}' % os.getppid()); input()",
            ", which is none of its processes",
        ),
        (f"print('{READY}', flush=True); input(); print('oops')", "said b'oops', which is no answer"),
        (
            f"print('{READY}', flush=True); input(); "
            'print(\'{"event": "ended", "exit_code": -9}\', flush=True); input()',
            "ended by SIGKILL",
        ),
        (
            f"print('{READY}', flush=True); input(); "
            'print(\'{"event": "failed", "reason": "Step=1: the loss is nan"}\', flush=True); input()',
            "Step=1: the loss is nan",
        ),
    ],
)
def test_a_side_that_misbehaves_is_one_error_that_names_it(tmp_path: Path, code: str, problem: str) -> None:
    """Whatever it does, the error begins with the side and its SPEC, and no process is left."""
    with pytest.raises(MeasureError) as error:
        measure(scripted(tmp_path, BEHAVES, code), Mode.SIMULTANEOUS, 1)
    assert str(error.value).startswith("candidate side (git:bad): ")
    assert problem in str(error.value)
    assert not children()


def test_a_side_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One side has warmed up, the other says nothing: after the time for an answer it is named, with its last line."""
    words = "sys.stderr.write('stuck'); sys.stderr.flush(); print('x', end='', flush=True)"
    code = f"print('{READY}', flush=True); input(); {words}"
    answer = Runner.answer

    def impatient(process: Runner, kind: Any) -> Any:
        """Allow no time once the side is stuck, and all that it wants before."""
        if kind is Waiting and process.pid == pids[-1]:
            select.select([process], [], [])
            monkeypatch.setattr(runners_module, "ANSWER_TIMEOUT_S", 0.0)
        elif process.pid not in pids:
            pids.append(process.pid)
        return answer(process, kind)

    pids: list[int] = []  # the baseline is asked first whether it is ready
    monkeypatch.setattr(Runner, "answer", impatient)
    with pytest.raises(MeasureError, match=r"candidate side \(git:bad\): no answer within 0 s; its last lines: stuck"):
        measure(scripted(tmp_path, BEHAVES, f"{code}; signal.pause()"), Mode.SIMULTANEOUS, 1)
    assert not children()


def test_an_interpreter_that_cannot_start_is_named(own: tuple[Side, Side]) -> None:
    """It is no traceback of ours."""
    broken = Side(name="candidate", text="python:x", workload="net", command=("/nonexistent",), root=HOME, environ={})
    with pytest.raises(MeasureError, match=r"candidate side \(python:x\): could not be started"):
        measure((own[0], broken), Mode.ALTERNATING, 1)
    assert not children()


def children() -> list[str]:
    """Return the processes that this one has started and not waited for; where the system tells (Linux)."""
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return path.read_text().split() if sys.platform == "linux" else []


@given(st.floats(-0.5, 0.5), st.floats(0.0, 0.9), st.integers(2, 20))
def test_the_effect_of_a_pair_at_once_is_that_of_the_rates(effect: float, late: float, num_steps: int) -> None:
    """Whoever begins or ends first: only the time in which both were stepping counts."""
    baseline = tuple(float(i) for i in range(num_steps + 1))
    candidate = tuple(late + i / float(np.exp(effect)) for i in range(num_steps + 1))
    assert simultaneous_effect(baseline, candidate) == pytest.approx(effect, abs=1e-9)


@given(st.floats(-0.5, 0.5), st.floats(-0.01, 0.01))
def test_a_steady_drift_cancels_in_a_pair_in_turns(effect: float, drift: float) -> None:
    """ABBA: a machine that slows down by the same factor with every slice favours nobody."""
    order = [0, 1, 1, 0] + [1, 0, 0, 1] * (BLOCKS - 1)
    slices: list[list[tuple[float, ...]]] = [[], []]
    for number, side in enumerate(order):
        slices[side].append((0.0, float(np.exp(drift * number - effect * side))))
    assert alternating_effect(*slices) == pytest.approx(effect, abs=1e-9)


def test_one_disturbed_block_does_not_count() -> None:
    """The median of the blocks is that of the others."""
    quiet = [(0.0, 1.0)] * (2 * BLOCKS)
    disturbed = [(0.0, 3.0), *quiet[1:]]
    assert alternating_effect(quiet, disturbed) == 0.0


def test_the_mode_suits_the_machine() -> None:
    """Both at once where each side can have cores of its own and nothing that half a machine would not show."""
    assert choose_mode([{}, {}], num_gpus=0, cores={0, 1})[0] is Mode.SIMULTANEOUS
    assert choose_mode([{}, {}], num_gpus=1, cores={0, 1}) == (
        Mode.ALTERNATING,
        "one GPU can only serve one side at a time",
    )
    assert choose_mode([{}, {}], num_gpus=0, cores={0})[0] is Mode.ALTERNATING
    mode, why = choose_mode([{}, {"OMP_NUM_THREADS": "1"}], num_gpus=0, cores={0, 1})
    assert mode is Mode.ALTERNATING
    assert "OMP_NUM_THREADS" in why


class Commands:
    """Runs of commands that print at once: each takes as long as its side, and its losses are those it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[tuple[str, int]] = []  # each run's side and number of steps
        self.asked: list[str] = []  # the side of each question
        self.window_s = {"baseline": 1.0, "candidate": 0.5}
        self.steps = {"baseline": (10, 20, 30), "candidate": (10, 20, 30)}
        self.losses = lambda name, number: (3.0, 2.0, 1.0)  # of a side's run, which is the number-th of all
        monkeypatch.setattr(duet_module, "run_command", self._run)
        monkeypatch.setattr(duet_module, "asked_once", self._ask)
        self.sides = (self._side("baseline"), self._side("candidate"))

    def _side(self, name: str) -> Side:
        return Side(name=name, text=name, workload="stepmark.toml:net", command=(), root=HOME, environ={})

    def _run(self, side: Side, case: CaseSpec, num_steps: int) -> Stepped:
        self.ran.append((side.name, num_steps))
        began_s, window_s = 100.0 * len(self.ran), self.window_s[side.name]
        marks = (began_s, *(began_s + 7.0 + window_s * i for i in range(3)))  # seven seconds of start
        return Stepped(marks=marks, losses=self.losses(side.name, len(self.ran)), steps=self.steps[side.name])

    def _ask(self, side: Side, case: CaseSpec) -> Counted:
        self.asked.append(side.name)
        return Counted(facts={"device": ""})

    def duet(self) -> Duet:
        """Return a duet of them, with runs of 30 steps."""
        return Duet(self.sides, CASES, mode=Mode.ALTERNATING, cores={0}, command_steps=30, rng=np.random.default_rng(0))


def test_a_pair_of_commands_is_a_block_of_four_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """ABBA or BAAB, drawn anew for each; timed from the first step line, with all losses and the steps between."""
    commands = Commands(monkeypatch)
    commands.losses = lambda name, number: (3.0, 2.0, float(number))
    duet = commands.duet()
    duet.pairs_per_start = 10
    pairs = duet.start(SIZES, budget_s=1000.0)
    order = "".join(name[0] for name, _ in commands.ran)
    assert {order[i : i + 4] for i in range(0, len(order), 4)} == {"bccb", "cbbc"}
    assert len(order) == 4 * len(pairs) == 4 * 20
    assert {num_steps for _, num_steps in commands.ran} == {30}
    for number, pair in enumerate(pairs):
        assert pair.effect == pytest.approx(np.log(2.0))  # the start counts for nobody
        assert [len(marks) for marks in (*pair.baseline, *pair.candidate)] == [3] * 4
        assert pair.num_steps == 20
        last = sorted(losses[-1] for side in pair.losses for losses in side)
        assert last == [4.0 * number + i for i in (1, 2, 3, 4)]


def test_commands_that_print_other_steps_cannot_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time between other steps is that of other work."""
    commands = Commands(monkeypatch)
    commands.steps["candidate"] = (10, 20, 40)
    with pytest.raises(MeasureError, match=r"8: the sides print lines from \(10, 30\) and \(10, 40\), of other steps"):
        commands.duet().start([8], budget_s=1000.0)


def test_of_equal_losses_each_command_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What both print first is known to be the same: no further run is needed."""
    commands = Commands(monkeypatch)
    duet = commands.duet()
    found = duet.work()
    assert [name for name, _ in commands.ran] == commands.asked == ["baseline", "candidate"] * len(SIZES)
    assert list(found) == list(duet.run_s) == list(SIZES)
    for baseline, candidate in found.values():
        assert baseline == candidate
        assert (baseline.losses, baseline.reruns) == ((3.0, 2.0, 1.0), ())


def test_where_losses_differ_the_baseline_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so can it be told whether they also differ from run to run."""
    commands = Commands(monkeypatch)
    commands.losses = lambda name, number: (3.0, 2.0, float(number))
    ((baseline, candidate), _) = commands.duet().work().values()
    assert [name for name, _ in commands.ran[:3]] == ["baseline", "candidate", "baseline"]
    assert (baseline.losses[-1], candidate.losses[-1]) == (1.0, 2.0)
    assert baseline.reruns == ((3.0, 2.0, 3.0),)
    assert candidate.reruns == ()
