"""The process of a side: each request is a fresh run, and one that goes wrong ends alone."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch

from perf.errors import MeasureError
from perf.measure.runners import Runner
from perf.measure.sides import HOME, own_side
from perf.records.wire import STEP_PHASES, Attributed, CaseSpec, Counted, Ended, Request
from perf.runner.__main__ import shuffled_memory

CASE = CaseSpec(global_batch_size=16)
RUN = Request(do="run", case=CASE, num_threads=1, warmup_steps=2)


def made(stack: ExitStack, workload: str) -> Runner:
    """Return the runner of this working tree."""
    runner = Runner(stack, own_side(HOME, workload, os.environ))
    runner.ready()
    return runner


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    """A runner that serves a small workload."""
    with ExitStack() as stack:
        yield made(stack, "tests.workloads:small")


def losses(runner: Runner) -> list[float]:
    """Return the losses of two warm-up steps, then of three and of one."""
    runner.request(RUN)
    waiting = runner.waiting()
    assert len(waiting.losses) == 2
    assert waiting.micro_batch_size == 8
    assert waiting.step_s is not None
    found = list(waiting.losses)
    for num_steps in (3, 1):
        runner.tell(num_steps)
        stepped = runner.stepped()
        assert len(stepped.marks) == num_steps + 1
        assert [line.split(",")[0] for line in stepped.lines] == [f"Step={len(found) + num_steps}"]
        found += stepped.losses
    runner.end_run()
    return found


def test_every_run_starts_afresh(runner: Runner) -> None:
    """Two runs of one case have the same losses, each from step 1."""
    first = losses(runner)
    assert len(first) == 6
    assert losses(runner) == first


def test_a_request_that_nobody_understands_ends_its_own_process(runner: Runner) -> None:
    """The reason is an answer, and the next run runs."""
    runner.send('{"do": "dance", "case": {"global_batch_size": 16}}')
    with pytest.raises(MeasureError, match="was asked to dance, and can run, count, attribute"):
        runner.waiting()
    runner.answer(Ended)
    assert losses(runner)


def test_a_side_is_asked_only_for_what_it_can_do(runner: Runner) -> None:
    """A later version's request is refused here, by name."""
    with pytest.raises(MeasureError, match="cannot be asked to dance; use a commit whose sides can"):
        runner.request(Request(do="dance", case=CASE))


def test_counting_says_what_the_side_is(runner: Runner) -> None:
    """Counters, and how the side resolved what it was asked."""
    runner.request(Request(do="count", case=CASE))
    found = runner.only_answer(Counted)
    assert found.counters["optimizer_updates"] == 1
    assert found.facts["device"] == "cpu"
    assert found.facts["micro_batch_size"] == 8
    assert found.facts["workload.hidden_size"] == 16
    assert found.fingerprint is not None
    assert found.fingerprint.software["torch"] == torch.__version__


def test_where_the_time_goes_of_a_built_in_workload(runner: Runner) -> None:
    """Every phase of a step takes time."""
    runner.request(Request(do="attribute", case=CASE, num_threads=1))
    rows = runner.only_answer(Attributed).rows
    assert {row.phase for row in rows if row.seconds > 0} == {*STEP_PHASES}


def test_a_workload_of_anyone_s() -> None:
    """It learns, returns further scalars, and names a phase of its own accord."""
    with ExitStack() as stack:
        runner = made(stack, "tests/workloads.py:line")
        runner.request(Request(do="count", case=CaseSpec(global_batch_size=4)))
        counted = runner.only_answer(Counted)
        assert counted.counters["parameters"] == 3
        assert counted.facts["workload.width"] == 3
        assert counted.facts["precision"] == "bf16"
        runner.request(Request(do="run", case=CaseSpec(global_batch_size=4)))
        runner.waiting()
        runner.tell(8)
        first = runner.stepped()
        runner.end_run()
        assert first.losses[-1] < first.losses[0]
        assert len(first.losses) == len(first.scalars["grad_norm"]) == 8
        runner.request(Request(do="attribute", case=CaseSpec(global_batch_size=4), num_threads=1))
        rows = runner.only_answer(Attributed).rows
        assert any(row.phase == "clip" and "norm" in row.operation for row in rows)


def test_a_workload_that_cannot_be_built_says_where() -> None:
    """The user's error, his file and line."""
    with ExitStack() as stack:
        runner = made(stack, "tests.workloads:broken")
        runner.request(Request(do="run", case=CaseSpec(global_batch_size=4)))
        with pytest.raises(MeasureError, match=r"^RuntimeError: no data here \(.*tests/workloads\.py, line \d+\)$"):
            runner.waiting()


def test_a_step_that_fails_says_where() -> None:
    """Also with a ValueError, which is no argument's of ours."""
    with ExitStack() as stack:
        runner = made(stack, "tests.workloads:fussy")
        runner.request(Request(do="run", case=CaseSpec(global_batch_size=4), warmup_steps=1))
        with pytest.raises(MeasureError, match=r"^ValueError: 4 and 5 do not fit \(.*tests/workloads\.py, line \d+\)"):
            runner.waiting()


def test_layouts_differ() -> None:
    """What is kept has other sizes for other seeds, and the same for the same one."""
    sizes = [[len(block) for block in shuffled_memory(random.Random(seed))] for seed in (1, 1, 2)]
    assert sizes[0] == sizes[1] != sizes[2]
