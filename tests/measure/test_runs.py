"""Runs in fresh processes: interleaved, one at a time, complete, and gone afterwards, whatever happens."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

import numpy as np
import pytest

from perf.errors import MeasureError
from perf.measure import runs
from perf.measure.runs import RunSpec, measure, started_worker
from perf.records.sessions import Session
from perf.train.workloads import Workload
from tests.judge.noise import COUNTERS
from tests.measure.test_processes import interrupted_inside_popen

pytestmark = pytest.mark.xdist_group("runs")  # what its tests share is made once


def spec_of(workload: Workload, size: int, **changes: Any) -> RunSpec:
    """Return a spec of eight steps in slices of two."""
    fields = {"device": "cpu", "precision": "fp32", "seed": 0, "num_steps": 8, "slice_steps": 2}
    return RunSpec(workload=workload, global_batch_size=size, **{**fields, **changes})


@pytest.fixture(scope="module")
def measured(workload: Workload) -> Session:
    """Two batch sizes, two runs each; a third batch size cannot learn, since its learning rate overflows."""
    hopeless = dataclasses.replace(workload, learning_rate=1e30, lr_warmup_steps=1)
    specs = [spec_of(workload, 8), spec_of(workload, 16), spec_of(hopeless, 32)]
    return measure(specs, num_rounds=2, rng=np.random.default_rng(0), environ=os.environ)


def test_every_run_is_whole(measured: Session) -> None:
    """Each batch size has its runs; each run has a time and a loss for every step, its log and its counters."""
    assert list(measured.measurements) == [8, 16]
    for size, measurement in measured.measurements.items():
        assert measurement.micro_batch_size == 8
        assert len(measurement.runs) == 2
        for run in measurement.runs:
            assert len(run.step_s) == len(run.losses) == 8
            assert min(run.step_s) > 0
            assert [line.split(",")[0] for line in run.lines[:-1]] == ["Step=2", "Step=4", "Step=6", "Step=8"]
            assert run.lines[-1].startswith(f"Processed {8 * size} sample(s) in ")


def test_fresh_processes_agree(measured: Session) -> None:
    """Losses and counters of one batch size are the same in every process."""
    for measurement in measured.measurements.values():
        first, second = measurement.runs
        assert first.losses == second.losses
        assert first.counters == second.counters


def test_a_batch_size_that_fails_does_not_hide_the_others(measured: Session) -> None:
    """A loss that is no number stops its run with the step named; the other batch sizes are measured."""
    assert list(measured.failures) == [32]
    assert measured.failures[32].startswith("run 1: Step=")
    assert "the loss is nan" in measured.failures[32]


class Recorder:
    """A worker that answers at once and notes who was told what."""

    events: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, stack: ExitStack, spec: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self.size, self.steps = spec["global_batch_size"], (spec["slice_steps"], spec["num_steps"])
        stack.callback(self.events.append, ("end", self.size))
        self.events.append(("start", self.size))

    def tell(self) -> Recorder:
        """Take a command."""
        self.events.append(("tell", self.size))
        return self

    def answer(self, event: str) -> dict[str, Any]:
        """Answer it."""
        self.events.append((event, self.size))
        return {
            "event": event,
            "step_s": [0.1] * self.steps[0],
            "losses": [1.0] * self.steps[1],
            "lines": [],
            "counters": dataclasses.asdict(COUNTERS),
            "device": "cpu",
            "precision": "fp32",
            "micro_batch_size": 8,
            "python": "3.11",
            "fingerprint": {"hardware": {}, "software": {}},
        }


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What workers are told, without any."""
    Recorder.events = []
    monkeypatch.setattr(runs, "started_worker", Recorder)
    return Recorder.events


def test_one_process_steps_at_a_time(recorded: list[tuple[str, int]], workload: Workload) -> None:
    """Between a command and its answer nobody else is told to step, and none is while another starts."""
    specs = [spec_of(workload, size) for size in (8, 16, 32)]
    measure(specs, num_rounds=2, rng=np.random.default_rng(0), environ={})
    for begin in (i for i, event in enumerate(recorded) if event == ("start", 8)):
        stepping = recorded[begin : begin + 9 + 2 * 3 * 4]
        assert [kind for kind, _ in stepping[:9]] == ["start"] * 3 + ["described"] * 3 + ["waiting"] * 3
        pairs = list(zip(stepping[9::2], stepping[10::2], strict=True))
        assert len(pairs) == 12
        assert all(
            told == ("tell", size) and answer == ("waiting", size) for told, answer in pairs for size in [told[1]]
        )


def test_batch_sizes_take_turns_in_random_order(recorded: list[tuple[str, int]], workload: Workload) -> None:
    """Each turn gives each batch size one slice; the order changes from turn to turn."""
    specs = [spec_of(workload, size, num_steps=40) for size in (8, 16, 32)]
    measure(specs, num_rounds=1, rng=np.random.default_rng(0), environ={})
    told = [size for kind, size in recorded if kind == "tell"][: 3 * 20]
    turns = [tuple(told[i : i + 3]) for i in range(0, len(told), 3)]
    assert all(sorted(turn) == [8, 16, 32] for turn in turns)
    assert len(set(turns)) > 2


def test_a_worker_that_ends_tells_its_last_lines(workload: Workload) -> None:
    """A crash is one error with the exit code and what the process said last."""
    with ExitStack() as stack, pytest.raises(MeasureError) as error:
        started_worker(stack, {"workload": {}}, os.environ).answer("described")
    assert "ended with exit code 1" in str(error.value)
    assert "KeyError" in str(error.value)


def test_a_worker_that_hangs_is_given_up(workload: Workload) -> None:
    """After the time for an answer it is an error, and the process is gone."""
    with ExitStack() as stack:
        worker = started_worker(stack, spec_of(workload, 8).as_json(), os.environ)
        with pytest.raises(MeasureError, match="no answer"):
            worker.answer("described", timeout_s=0.0)
    assert worker._process.poll() is not None


def test_an_interrupt_while_workers_start_leaves_none(workload: Workload) -> None:
    """A worker that has been started and is not yet known ends, too."""
    specs = [spec_of(workload, size) for size in (8, 16)]
    with interrupted_inside_popen(signal.SIGINT) as made:
        with pytest.raises(KeyboardInterrupt):
            measure(specs, num_rounds=1, rng=np.random.default_rng(0), environ=os.environ)
        assert [process.returncode for process in made] == [-signal.SIGKILL]


def test_a_session_without_any_result_is_an_error(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no batch size can be measured, the reasons are told."""

    class Broken(Recorder):
        def answer(self, event: str) -> dict[str, Any]:
            raise MeasureError("out of memory")

    monkeypatch.setattr(runs, "started_worker", Broken)
    with pytest.raises(MeasureError, match="global batch size 8: run 1: out of memory"):
        measure([spec_of(workload, 8)], num_rounds=2, rng=np.random.default_rng(0), environ={})


def test_a_machine_that_changes_between_runs_is_an_error(
    recorded: list[tuple[str, int]], workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs made with different software are not one measurement."""
    versions = iter(["2.4.6", "2.5.0"])

    class Upgraded(Recorder):
        def answer(self, event: str) -> dict[str, Any]:
            found = super().answer(event)
            if event == "described":
                found["fingerprint"] = {"hardware": {}, "software": {"numpy": next(versions)}}
            return found

    monkeypatch.setattr(runs, "started_worker", Upgraded)
    with pytest.raises(MeasureError, match=r"2\.5\.0.*2\.4\.6"):
        measure([spec_of(workload, 8)], num_rounds=2, rng=np.random.default_rng(0), environ={})


def test_a_spec_survives_the_way_to_its_process(workload: Workload) -> None:
    """What a worker reads is what was asked."""
    spec = spec_of(workload, 8)
    assert RunSpec.from_json(json.loads(json.dumps(spec.as_json()))) == spec


@pytest.mark.parametrize(("num_steps", "slice_steps"), [(3, 1), (10, 4), (8, 0)])
def test_a_run_is_whole_slices(workload: Workload, num_steps: int, slice_steps: int) -> None:
    """Too few steps, or steps that slices do not divide, are refused."""
    with pytest.raises(ValueError, match="at least 4 steps in whole slices"):
        spec_of(workload, 8, num_steps=num_steps, slice_steps=slice_steps)
