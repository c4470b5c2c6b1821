"""The process of a side: each request is a fresh run, and one that goes wrong ends alone."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from perf.errors import MeasureError
from perf.measure.processes import Process
from perf.measure.sides import parse_recipe, prepared
from perf.records.wire import REQUESTS, SideSpec, read_ready
from perf.records.wire import request as request_line
from perf.runner import stepper
from perf.runner.stepper import WARMUP_STEPS, shuffled_memory, timed_steps
from perf.train.config import RunConfig, plan_run
from perf.train.data import SyntheticLanguage
from perf.train.devices import World
from perf.train.trainer import Trainer
from perf.train.workloads import WORKLOADS, Workload

pytestmark = pytest.mark.xdist_group("side")  # what its tests share is made once


@pytest.fixture
def spec(workload: Workload) -> SideSpec:
    """Sixteen samples a step on one thread."""
    return SideSpec(workload=workload, global_batch_size=16, device="cpu", precision="fp32", seed=0, num_threads=1)


@pytest.fixture(scope="module")
def side() -> Iterator[Process]:
    """The process of this working tree."""
    with (
        prepared(parse_recipe(["self"]), "candidate", os.environ) as made,
        Process(made.command, environ=made.environ, cwd=made.root) as process,
    ):
        assert read_ready(process.answer("ready")) == set(REQUESTS)
        yield process


def request(spec: SideSpec, do: str = "run", **changes: Any) -> str:
    """Return the line that asks for something."""
    return request_line(do, dataclasses.replace(spec, **changes), layout=1)


def losses(side: Process, spec: SideSpec) -> list[float]:
    """Return the losses of two warm-up steps, then of three and of one."""
    side.tell(request(spec))
    waiting = side.answer("waiting")
    found: list[float] = waiting["losses"]
    assert len(found) == WARMUP_STEPS
    for num_steps in (3, 1):
        stepped = side.tell(f"{num_steps}").answer("stepped")
        assert len(stepped["marks"]) == num_steps + 1
        assert stepped["marks"] == sorted(stepped["marks"])
        found += stepped["losses"]
    assert side.tell("0").answer("ended")["exit_code"] == 0
    return found


def test_every_run_starts_afresh(side: Process, spec: SideSpec) -> None:
    """Two runs of one spec have the same losses, each from step 1."""
    first = losses(side, spec)
    assert len(first) == 6
    assert losses(side, spec) == first


@pytest.mark.parametrize("what", ["a loss that is no number", "no samples"])
def test_a_run_that_cannot_go_on_says_why_and_the_next_one_runs(side: Process, spec: SideSpec, what: str) -> None:
    """A problem with data or arguments is an answer in words."""
    if what == "no samples":
        changes: dict[str, Any] = {"global_batch_size": 0}
        problem = "global_batch_size=0"
    else:
        hopeless = dataclasses.replace(spec.workload, learning_rate=1e30, lr_warmup_steps=1)
        changes, problem = {"workload": hopeless}, "the loss is nan"
    side.tell(request(spec, **changes))
    while (found := json.loads(side._line(60.0)))["event"] == "waiting":
        side.tell("8")
    assert found["event"] == "failed"
    assert problem in found["reason"]
    assert side.answer("ended")["exit_code"] == 0
    assert losses(side, spec)


def test_a_request_that_nobody_understands_ends_its_own_process(side: Process, spec: SideSpec) -> None:
    """The traceback goes to the side's last words, and the next run runs."""
    side.tell('{"do": "dance"}')
    assert side.answer("ended")["exit_code"] == 1
    assert losses(side, spec)


def test_counting_tells_what_the_side_is(side: Process, spec: SideSpec) -> None:
    """Counters, and how the side resolved what it was asked."""
    found = side.tell(request(spec, "count", precision="auto")).answer("counted")
    assert found["counters"]["optimizer_updates"] == 1
    assert found["precision"] in ("fp32", "bf16")
    assert found["micro_batch_size"] == spec.workload.micro_batch_size
    assert found["fingerprint"]["software"]["torch"] == torch.__version__
    assert side.answer("ended")["exit_code"] == 0


def test_layouts_differ() -> None:
    """What is kept has other sizes for other seeds, and the same for the same one."""
    sizes = [[len(block) for block in shuffled_memory(random.Random(seed))] for seed in (1, 1, 2)]
    assert sizes[0] == sizes[1] != sizes[2]


def test_reading_the_losses_is_part_of_the_time(run_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last mark follows it, as in a run that logs; the first precedes the first step."""
    events: list[str] = []
    ticks = iter(range(100))

    def clock() -> float:
        events.append("mark")
        return float(next(ticks))

    source = SyntheticLanguage(run_config.workload, seed=0)
    trainer = Trainer(plan_run(run_config, source, World()), source, World())
    for name in ("step", "read_losses"):
        original = getattr(trainer, name)

        def noted(name: str = name, original: Any = original) -> Any:
            events.append(name)
            return original()

        monkeypatch.setattr(trainer, name, noted)
    monkeypatch.setattr(stepper.time, "perf_counter", clock)
    marks, found = timed_steps(trainer, 2, torch.device("cpu"))
    assert events == ["mark", "step", "mark", "step", "read_losses", "mark"]
    assert marks == [0.0, 1.0, 2.0]
    assert len(found) == 2


def test_a_request_of_another_commit_is_served(side: Process, spec: SideSpec) -> None:
    """Fields that this side does not know are ignored; missing ones are this side's own."""
    asked = json.loads(request(spec, "count"))
    asked |= {"deadline_s": 7}
    asked["spec"] |= {"priority": 3}
    asked["spec"]["workload"] |= {"name": "pico", "rope": True}
    del asked["spec"]["seed"], asked["spec"]["workload"]["weight_decay"]
    found = side.tell(json.dumps(asked)).answer("counted")
    assert "rope" not in found["workload"]
    assert found["workload"]["weight_decay"] == WORKLOADS["pico"].weight_decay
    assert found["workload"]["hidden_size"] == spec.workload.hidden_size
    assert side.answer("ended")["exit_code"] == 0
    del asked["spec"]["workload"]["hidden_size"]
    asked["spec"]["workload"]["name"] = "elsewhere"
    with pytest.raises(MeasureError, match="workload 'elsewhere': has no hidden_size, which is needed here"):
        side.tell(json.dumps(asked)).answer("counted")
    assert side.answer("ended")["exit_code"] == 0
