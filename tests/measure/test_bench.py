"""Runs in fresh processes: interleaved, one at a time, complete, and gone afterwards, whatever happens."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from perf.errors import MeasureError
from perf.measure import bench
from perf.measure.bench import SLICE_STEPS, measure
from perf.measure.runners import Runner
from perf.measure.sides import HOME, Side, own_side
from perf.records.sessions import Fingerprint, Session
from perf.records.wire import CaseSpec, Counted, Request, Stepped, Waiting
from tests.judge.noise import COUNTERS
from tests.measure.test_runners import interrupted_inside_popen


def cases(*sizes: int) -> dict[int, CaseSpec]:
    """Return a case of each batch size."""
    return {size: CaseSpec(global_batch_size=size) for size in sizes}


def side(workload: str) -> Side:
    """Return this working tree."""
    return own_side(HOME, workload, os.environ)


@pytest.fixture(scope="module")
def measured() -> Session:
    """Two batch sizes, two runs each; the loss of a third is no number."""
    rng = np.random.default_rng(0)
    return measure(side("tests.workloads:fails_at_32"), cases(8, 16, 32), num_rounds=2, num_steps=8, rng=rng)


def test_every_run_is_whole(measured: Session) -> None:
    """Each batch size has its runs; each run has a time and a loss for every step, its log and its counters."""
    assert list(measured.measurements) == [8, 16]
    for size, measurement in measured.measurements.items():
        assert measurement.micro_batch_size == size
        assert len(measurement.runs) == 2
        for run in measurement.runs:
            assert len(run.step_s) == len(run.losses) == 8
            assert min(run.step_s) > 0
            assert [line.split(",")[0] for line in run.lines[:-1]] == ["Step=4", "Step=8"]
            assert run.lines[-1].startswith(f"Processed {8 * size} sample(s) in ")
            assert f"Loss={run.losses[-1]:.5f}" in run.lines[-2]


def test_fresh_processes_agree(measured: Session) -> None:
    """Losses and counters of one batch size are the same in every process."""
    for measurement in measured.measurements.values():
        first, second = measurement.runs
        assert first.losses == second.losses
        assert first.counters == second.counters


def test_a_batch_size_that_fails_does_not_hide_the_others(measured: Session) -> None:
    """A loss that is no number stops its run with the step named; the other batch sizes are measured."""
    assert list(measured.failures) == [32]
    assert measured.failures[32].startswith("run 1: Step=2: the loss is nan")


SOFTWARE = Fingerprint(hardware={}, software={"numpy": "2.4.6"})


class Recorder:
    """A runner that answers at once and notes who was asked what."""

    events: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, stack: ExitStack, side: Side) -> None:
        self.size = 0
        self.events.append(("start", 0))

    def ready(self) -> None:
        """Be ready."""
        self.events.append(("ready", 0))

    def request(self, request: Request) -> None:
        """Take a request."""
        self.size = request.case.global_batch_size
        self.events.append((request.do, self.size))

    def waiting(self) -> Waiting:
        """Answer it."""
        self.events.append(("waiting", self.size))
        return Waiting(pid=4711)

    def tell(self, num_steps: int) -> None:
        """Take a command."""
        assert num_steps == SLICE_STEPS
        self.events.append(("tell", self.size))

    def stepped(self) -> Stepped:
        """Answer it."""
        self.events.append(("stepped", self.size))
        return Stepped(marks=(0.0, 0.1, 0.2, 0.3, 0.4), losses=(1.0,) * 4)

    def end_run(self) -> None:
        """End the run."""

    def only_answer(self, kind: type[Counted]) -> Counted:
        """Answer it."""
        facts = {"device": "cpu", "precision": "fp32", "micro_batch_size": 8}
        return Counted(counters=msgspec.structs.asdict(COUNTERS), facts=facts, python="3.11", fingerprint=SOFTWARE)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What runners are asked, without any."""
    Recorder.events = []
    monkeypatch.setattr(bench, "Runner", Recorder)
    return Recorder.events


NOBODY = Side(name="", text="self", workload="pico", command=(), root=HOME, environ={})


def test_one_process_steps_at_a_time(recorded: list[tuple[str, int]]) -> None:
    """Between a command and its answer nobody else is told to step, and none is while another starts."""
    measure(NOBODY, cases(8, 16, 32), num_rounds=2, num_steps=16, rng=np.random.default_rng(0))
    for begin in (i - 3 for i, event in enumerate(recorded) if event == ("run", 8)):
        stepping = recorded[begin : begin + 9 + 2 * 3 * 4]
        assert [kind for kind, _ in stepping[:9]] == ["ready"] * 3 + ["run"] * 3 + ["waiting"] * 3
        pairs = list(zip(stepping[9::2], stepping[10::2], strict=True))
        assert len(pairs) == 12
        assert all(
            told == ("tell", size) and answer == ("stepped", size) for told, answer in pairs for size in [told[1]]
        )


def test_batch_sizes_take_turns_in_random_order(recorded: list[tuple[str, int]]) -> None:
    """Each turn gives each batch size one slice; the order changes from turn to turn."""
    measure(NOBODY, cases(8, 16, 32), num_rounds=1, num_steps=80, rng=np.random.default_rng(0))
    told = [size for kind, size in recorded if kind == "tell"]
    turns = [tuple(told[i : i + 3]) for i in range(0, len(told), 3)]
    assert len(turns) == 20
    assert all(sorted(turn) == [8, 16, 32] for turn in turns)
    assert len(set(turns)) > 2


def test_steps_and_lines_come_from_the_marks(recorded: list[tuple[str, int]]) -> None:
    """A step's time is the difference of its marks, and the totals cover all slices and no pause."""
    session = measure(NOBODY, cases(8), num_rounds=1, num_steps=8, rng=np.random.default_rng(0))
    (run,) = session.measurements[8].runs
    assert run.step_s == pytest.approx([0.1] * 8)
    assert run.lines == ("Processed 64 sample(s) in 0.800000000 seconds.",)


def test_an_interrupt_while_runners_start_leaves_none() -> None:
    """A process that has been started and is not yet known ends, too."""
    with interrupted_inside_popen(signal.SIGINT) as made:
        with pytest.raises(KeyboardInterrupt):
            measure(
                side("tests.workloads:small"), cases(8, 16), num_rounds=1, num_steps=4, rng=np.random.default_rng(0)
            )
        assert [process.returncode for process in made] == [-signal.SIGKILL]


def test_a_session_without_any_result_is_an_error(
    recorded: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When no batch size can be measured, the reasons are told."""

    def broken(self: Recorder) -> Waiting:
        raise MeasureError("out of memory")

    monkeypatch.setattr(Recorder, "waiting", broken)
    with pytest.raises(MeasureError, match="global batch size 8: run 1: out of memory"):
        measure(NOBODY, cases(8), num_rounds=2, num_steps=8, rng=np.random.default_rng(0))


def test_a_machine_that_changes_between_runs_is_an_error(
    recorded: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs made with different software are not one measurement."""
    versions = iter(["2.4.6", "2.5.0"])
    counted = Recorder.only_answer

    def upgraded(self: Recorder, kind: type[Counted]) -> Counted:
        software = Fingerprint(hardware={}, software={"numpy": next(versions)})
        fields = {name: getattr(counted(self, kind), name) for name in ("counters", "facts", "python")}
        return Counted(**fields, fingerprint=software)

    monkeypatch.setattr(Recorder, "only_answer", upgraded)
    with pytest.raises(MeasureError, match=r"2\.5\.0.*2\.4\.6"):
        measure(NOBODY, cases(8), num_rounds=2, num_steps=8, rng=np.random.default_rng(0))


def test_counters_that_are_not_these_are_an_error(
    recorded: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner that counts other things cannot make a session."""
    counted = Recorder.only_answer

    def fewer(self: Recorder, kind: type[Counted]) -> Counted:
        found = counted(self, kind)
        del found.counters["flops"]
        return found

    monkeypatch.setattr(Recorder, "only_answer", fewer)
    with pytest.raises(MeasureError, match=r"global batch size 8: its answers do not fit together: .*`flops`"):
        measure(NOBODY, cases(8), num_rounds=1, num_steps=8, rng=np.random.default_rng(0))


def test_what_could_not_be_read_back_is_an_error(
    recorded: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that is kept must be one that can be promoted: names are printable ASCII."""
    answer = Stepped(marks=(0.0, 0.1, 0.2, 0.3, 0.4), losses=(1.0,) * 4, scalars={"gr\xf6\xdfe": (1.0,) * 4})
    monkeypatch.setattr(Recorder, "stepped", lambda self: answer)
    with pytest.raises(MeasureError, match=r"global batch size 8: its answers do not fit together: .*scalars"):
        measure(NOBODY, cases(8), num_rounds=1, num_steps=8, rng=np.random.default_rng(0))


def test_answers_that_do_not_fit_cost_their_batch_size_only(
    recorded: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that no file may hold: the other batch sizes, and the rounds before, are kept."""
    losses = {8: 1.0, 16: 2e9}

    def stepped(runner: Recorder) -> Stepped:
        return Stepped(marks=(0.0, 0.1, 0.2, 0.3, 0.4), losses=(losses[runner.size],) * 4)

    monkeypatch.setattr(Recorder, "stepped", stepped)
    session = measure(NOBODY, cases(8, 16), num_rounds=2, num_steps=8, rng=np.random.default_rng(0))
    assert {size: len(found.runs) for size, found in session.measurements.items()} == {8: 2}
    assert "global batch size 16: its answers do not fit together" in session.failures[16]


@pytest.mark.parametrize("num_steps", [0, 3, 10])
def test_a_run_is_whole_slices(num_steps: int) -> None:
    """Steps that slices do not divide are refused."""
    with pytest.raises(ValueError, match="a multiple of 4 is needed"):
        measure(NOBODY, cases(8), num_rounds=1, num_steps=num_steps, rng=np.random.default_rng(0))


def test_a_runner_without_its_workload_is_one_error() -> None:
    """What could not be imported, and where."""
    with ExitStack() as stack:
        runner = Runner(stack, side("tests.nowhere:net"))
        with pytest.raises(
            MeasureError,
            match=r"^tests\.nowhere: cannot be imported: ModuleNotFoundError: No module named 'tests.nowhere'$",
        ):
            runner.ready()


def test_a_signal_ends_the_measuring_with_the_whole_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop in the second round leaves the first; one in the first round is an interrupt as ever."""
    rounds = iter(range(3))
    original = bench._round

    def stopped_in_the_second(*arguments: Any) -> Any:
        if next(rounds) == 1:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(bench, "_round", stopped_in_the_second)
    options: dict[str, Any] = {"num_steps": 4, "rng": np.random.default_rng(0)}
    found = measure(side("tests.workloads:line"), cases(8), num_rounds=3, **options)
    assert [len(measurement.runs) for measurement in found.measurements.values()] == [1]
    rounds = iter([1])
    with pytest.raises(KeyboardInterrupt):
        measure(side("tests.workloads:line"), cases(8), num_rounds=3, **options)


COMMAND = Side(name="", text="self", workload="stepmark.toml:net", command=(), root=HOME, environ={})


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What commands are asked, without any: each prints a line every two steps; the one at 32 fails."""
    events: list[tuple[str, int]] = []

    def run(side: Side, case: CaseSpec, num_steps: int) -> Stepped:
        events.append(("run", case.global_batch_size))
        if case.global_batch_size == 32:
            raise MeasureError("ended with exit code 1")
        steps = tuple(range(2, num_steps + 1, 2))
        marks = tuple(0.5 * i for i in range(len(steps) + 1))
        lines = tuple(f"line {step}" for step in steps)
        return Stepped(marks=marks, losses=(1.0,) * len(steps), lines=lines, steps=steps)

    def ask(side: Side, case: CaseSpec) -> Counted:
        events.append(("count", case.global_batch_size))
        facts = {"device": "", "precision": "", "micro_batch_size": case.global_batch_size, "world_size": 4}
        return Counted(facts=facts, fingerprint=SOFTWARE)

    monkeypatch.setattr(bench, "run_command", run)
    monkeypatch.setattr(bench, "asked_once", ask)
    return events


def test_commands_run_one_after_the_other_in_random_order(commands: list[tuple[str, int]]) -> None:
    """Each once in a round, asked what it is after its first run only; each run counts as one slice."""
    slices: list[None] = []
    rng = np.random.default_rng(0)
    measure(COMMAND, cases(8, 16, 24), num_rounds=20, num_steps=10, rng=rng, on_slice=lambda: slices.append(None))
    ran = [size for kind, size in commands if kind == "run"]
    rounds = [tuple(ran[i : i + 3]) for i in range(0, len(ran), 3)]
    assert len(rounds) == 20
    assert len(slices) == 60
    assert all(sorted(turn) == [8, 16, 24] for turn in rounds)
    assert len(set(rounds)) > 2
    assert commands[:6] == [(kind, size) for size in rounds[0] for kind in ("run", "count")]
    assert {kind for kind, _ in commands[6:]} == {"run"}


def test_the_run_of_a_command_is_its_log(commands: list[tuple[str, int]]) -> None:
    """Values are of log windows, the first of which is warm-up; times are of one step, and nothing is counted."""
    session = measure(COMMAND, cases(8), num_rounds=1, num_steps=20, rng=np.random.default_rng(0))
    assert (session.device, session.precision) == ("", "")
    assert session.measurements[8].world_size == 4
    (run,) = session.measurements[8].runs
    assert run.steps == tuple(range(2, 21, 2))
    assert run.step_s == pytest.approx([0.25] * 10)
    assert run.warmup_steps == 1
    assert run.counters is None
    assert run.lines == tuple(f"line {step}" for step in run.steps)


def test_a_command_that_fails_at_one_batch_size_leaves_the_others(commands: list[tuple[str, int]]) -> None:
    """It is not tried again, and its reason is kept."""
    session = measure(COMMAND, cases(8, 32), num_rounds=3, num_steps=20, rng=np.random.default_rng(0))
    assert {size: len(found.runs) for size, found in session.measurements.items()} == {8: 3}
    assert session.failures == {32: "run 1: ended with exit code 1"}
    assert commands.count(("run", 32)) == 1
