"""The times of a step add up, belong to the phase in which they passed, and leave no trace of being taken."""

from __future__ import annotations

import dataclasses
import gc
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from perf.records.phases import PHASES, PYTHON, STEP_PHASES, PhaseTime
from perf.runner.attribution import attribute
from perf.runner.counters import count_step
from perf.train import kernel
from perf.train import trainer as trainer_module
from perf.train.config import RunConfig, RunPlan, plan_run
from perf.train.data import SyntheticLanguage
from perf.train.devices import World
from perf.train.workloads import Workload

REPLACED = (
    (trainer_module.Trainer, "_draw"),
    (kernel, "accumulate_gradients"),
    (torch.Tensor, "backward"),
    (torch.nn.utils, "clip_grad_norm_"),
    (trainer_module, "train_step"),
)


class Clock:
    """A clock that moves when told to, and by `per_reading` seconds whenever it is read."""

    def __init__(self, *, per_reading: float) -> None:
        self.now = 0.0
        self.readings = 0
        self._per_reading = per_reading

    def __call__(self) -> float:
        """Return the seconds now."""
        self.now += self._per_reading
        self.readings += 1
        return self.now


def plan_of(config: RunConfig, **changes: Any) -> RunPlan:
    """Return the plan of a run that keeps no checkpoints."""
    config = dataclasses.replace(config, keep_checkpoints=0, start="fresh", **changes)
    return plan_run(config, SyntheticLanguage(config.workload, seed=0), World())


def source_of(workload: Workload) -> SyntheticLanguage:
    """Return what the steps draw from."""
    return SyntheticLanguage(workload, seed=0)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where temporary directories are made."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def test_times_add_up(run_config: RunConfig) -> None:
    """All rows together, those of a step times the number of steps, are what elapsed; none is negative."""
    clock = Clock(per_reading=1.0)
    rows = attribute(plan_of(run_config), source_of(run_config.workload), num_steps=3, clock=clock)
    times = [row.seconds * (3 if row.phase in STEP_PHASES else 1) for row in rows]
    assert min(times) >= 0
    assert sum(times) == pytest.approx(clock.readings - 1, rel=1e-12)


def test_time_belongs_to_the_phase_in_which_it_passes(run_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each part takes beside operations is its own phase's, also of a part within another, and nobody else's."""
    clock = Clock(per_reading=0.0)

    def slow_down(owner: Any, name: str, seconds: float) -> None:
        original = getattr(owner, name)

        def slowed(*args: Any, **kwargs: Any) -> Any:
            clock.now += seconds
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, slowed)

    slow_down(SyntheticLanguage, "batch", 1.0)
    slow_down(kernel, "pretraining_loss", 2.0)  # in each of two micro-batches
    slow_down(torch.Tensor, "backward", 8.0)
    slow_down(torch.nn.utils, "clip_grad_norm_", 32.0)
    slow_down(torch.optim.AdamW, "step", 64.0)
    slow_down(trainer_module, "seed_device", 128.0)
    slow_down(trainer_module.Trainer, "read_losses", 256.0)
    slow_down(trainer_module.Trainer, "save", 512.0)
    rows = attribute(plan_of(run_config), source_of(run_config.workload), num_steps=2, clock=clock)
    found = {row.phase: row.seconds for row in rows if row.seconds}
    assert found == {
        "data": 1.0,
        "forward": 4.0,
        "backward": 16.0,
        "clip": 32.0,
        "optimizer": 64.0,
        "other": 128.0,
        "logging": 256.0,
        "checkpoint": 512.0,
    }
    assert {row.operation for row in rows if row.seconds} == {PYTHON}


def test_operations_are_those_that_the_counters_count(run_config: RunConfig) -> None:
    """The counts of a step, over phases and types, are the exact counters', and every phase has a row."""
    plan, source = plan_of(run_config), source_of(run_config.workload)
    rows = attribute(plan, source, num_steps=2)
    counted: Counter[str] = Counter()
    for row in rows:
        if row.phase in STEP_PHASES and row.operation != PYTHON:
            assert isinstance(row.count, int)
            counted[row.operation.split()[0]] += row.count
    assert counted == count_step(plan, source).ops
    assert list(dict.fromkeys(row.phase for row in rows)) == list(PHASES)
    assert [row.count for row in rows if row.operation == PYTHON] == [0] * len(PHASES)


def test_an_operation_is_named_with_the_type_it_computes_in(run_config: RunConfig) -> None:
    """With bf16 the matrix products of both passes are bfloat16, and the update is float32."""
    rows = attribute(plan_of(run_config, precision="bf16"), source_of(run_config.workload), num_steps=1)
    found = {(row.phase, row.operation) for row in rows}
    assert {("forward", "aten::addmm bfloat16"), ("backward", "aten::mm bfloat16")} <= found
    assert ("optimizer", "aten::_fused_adamw_ float32") in found
    assert not {("forward", "aten::addmm float32"), ("backward", "aten::mm float32")} & found


def test_a_count_that_steps_do_not_share_is_a_fraction(run_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation of every other step is half an operation per step."""
    original = kernel.pretraining_loss
    calls = []

    def sometimes_erf(*args: Any) -> torch.Tensor:
        calls.append(None)
        return original(*args).erf() if len(calls) % 2 else original(*args)

    monkeypatch.setattr(kernel, "pretraining_loss", sometimes_erf)
    plan = plan_of(run_config, global_batch_size=8)
    rows = attribute(plan, source_of(run_config.workload), num_steps=2)
    assert [row.count for row in rows if row.operation == "aten::erf float32"] == [0.5]


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_remains(run_config: RunConfig, temporary: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Afterwards every part is what it was, garbage is collected again and no file is left, also after an error."""

    def broken(*args: Any) -> None:
        raise ZeroDivisionError

    if fails:
        monkeypatch.setattr(kernel, "pretraining_loss", broken)
    before = [getattr(owner, name) for owner, name in REPLACED]
    plan, source = plan_of(run_config), source_of(run_config.workload)
    if fails:
        with pytest.raises(ZeroDivisionError):
            attribute(plan, source, num_steps=1)
    else:
        attribute(plan, source, num_steps=1)
    assert [getattr(owner, name) for owner, name in REPLACED] == before
    assert gc.isenabled()
    assert list(temporary.iterdir()) == []
    assert not run_config.model_dir.exists()


def test_a_plan_to_resume_keeps_its_checkpoints(run_config: RunConfig) -> None:
    """The directory of the plan is left alone, even where the plan would write to it."""
    config = dataclasses.replace(run_config, keep_checkpoints=1)
    source = source_of(config.workload)
    attribute(plan_run(config, source, World()), source, num_steps=1)
    assert list(config.model_dir.iterdir()) == []


def test_rows_pass_through_json(run_config: RunConfig) -> None:
    """A row is its fields and nothing else: as JSON and back it is equal, and whole numbers stay whole."""
    rows = attribute(plan_of(run_config), source_of(run_config.workload), num_steps=2)
    again = [PhaseTime(**row) for row in json.loads(json.dumps([dataclasses.asdict(row) for row in rows]))]
    assert again == rows
    assert [type(row.count) for row in again] == [type(row.count) for row in rows]


@pytest.mark.parametrize(("num_steps", "changes"), [(0, {}), (1, {"compile_model": True})])
def test_what_cannot_be_attributed_is_refused(run_config: RunConfig, num_steps: int, changes: dict[str, Any]) -> None:
    """No steps and a compiled model are refused, before anything is run."""
    with pytest.raises(ValueError, match=f"num_steps={num_steps}"):
        attribute(plan_of(run_config, **changes), source_of(run_config.workload), num_steps=num_steps)
