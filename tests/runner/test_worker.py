"""The clock of a worker counts what happens in its slices, and nothing else."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.measure.runs import RunSpec
from perf.runner import worker
from perf.runner.worker import SlicedClock
from perf.train.workloads import Workload


class FakeTime:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Return the time, seconds."""
        return self.now_s


@given(
    step_s=st.lists(st.floats(0.001, 10.0), min_size=1, max_size=24),
    pauses_s=st.lists(st.floats(0.0, 100.0), min_size=25, max_size=25),
    slice_steps=st.integers(1, 5),
)
def test_pauses_do_not_count(step_s: list[float], pauses_s: list[float], slice_steps: int) -> None:
    """Whatever the steps and the pauses take, the clock shows the sum of the steps, and each step its own time."""
    fake, pauses = FakeTime(), iter(pauses_s)
    seen: list[int] = []

    def wait(so_far: list[float]) -> None:
        seen.append(len(so_far))
        fake.now_s += next(pauses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", fake)
        clock = SlicedClock(wait, slice_steps=slice_steps, finish=lambda: None)
        assert clock() == pytest.approx(100.0)
        for seconds in step_s:
            fake.now_s += seconds
            clock.end_step()
        assert clock() == pytest.approx(100.0 + sum(step_s))
    assert clock.step_s == pytest.approx(step_s)
    assert seen == list(range(0, len(step_s) + 1, slice_steps))


def test_a_step_ends_when_the_device_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is waited for before the clock is read, so its work counts."""
    fake = FakeTime()
    monkeypatch.setattr(time, "perf_counter", fake)

    def finish() -> None:
        fake.now_s += 0.5

    clock = SlicedClock(lambda so_far: None, slice_steps=2, finish=finish)
    clock()
    fake.now_s += 1.0
    clock.end_step()
    assert clock.step_s == pytest.approx([1.5])


def test_the_log_s_time_has_no_pauses(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits a thousand seconds for each of its turns logs the milliseconds of its steps."""
    fake = FakeTime()
    said: list[dict[str, Any]] = []

    def tick() -> float:
        fake.now_s += 0.001
        return fake.now_s

    def wait() -> None:
        fake.now_s += 1000.0

    monkeypatch.setattr(time, "perf_counter", tick)
    monkeypatch.setattr(worker, "_next_command", wait)
    worker._run(
        RunSpec(
            workload=workload,
            global_batch_size=8,
            device="cpu",
            precision="fp32",
            seed=0,
            num_steps=8,
            slice_steps=2,
        ),
        said.append,
    )
    (trained,) = [answer for answer in said if answer["event"] == "trained"]
    assert 0 < float(trained["lines"][-1].split(" in ")[1].split()[0]) < 1.0
