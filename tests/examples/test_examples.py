"""Tests of the example projects, through the seam alone: nothing is measured."""

from __future__ import annotations

import importlib
import inspect
import unittest
from pathlib import Path

import pytest
from scipy import stats

from perf.seam import Case, Workload

FILES = sorted((Path(__file__).parents[2] / "examples").glob("*/bench_*.py"))
NUM_STEPS = 20


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def workload(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Workload:
    """Return the workload of an example; a skip where what it needs is not installed."""
    monkeypatch.syspath_prepend(request.param.parent)
    try:
        module = importlib.import_module(request.param.stem)
    except unittest.SkipTest as error:
        pytest.skip(str(error))
    (workload,) = (value for value in vars(module).values() if isinstance(value, Workload))
    return workload


def make_case(workload: Workload, global_batch_size: int) -> Case:
    """Return the case of a batch size."""
    micro_batch_size = workload.micro_batch_size_of(global_batch_size)
    return Case(global_batch_size=global_batch_size, micro_batch_size=micro_batch_size)


def test_a_workload_takes_fifteen_lines(workload: Workload) -> None:
    """A workload function, its decorator included, has at most 15 lines that are not blank, and says what it is for."""
    lines = [line for line in inspect.getsource(workload.build).splitlines() if line.strip()]
    assert len(lines) <= 15
    assert workload.why


@pytest.mark.filterwarnings("default:::torch")  # not the example's, and no reason to fail it
def test_an_example_learns_repeatably(workload: Workload) -> None:
    """At each batch size the loss decreases within 20 steps (p <= 0.001), and a second build repeats the first losses."""
    for global_batch_size in workload.global_batch_sizes:
        case = make_case(workload, global_batch_size)
        step = workload(case)
        losses = [float(step()) for _ in range(NUM_STEPS)]
        assert stats.kendalltau(range(NUM_STEPS), losses, alternative="less").pvalue <= 0.001
        step = workload(case)
        assert [float(step()) for _ in range(3)] == losses[:3]
