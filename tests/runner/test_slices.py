"""A run's clock counts what happens in its slices, and nothing else; marks, losses and lines come slice by slice."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perf.records.wire import Stepped
from perf.runner.slices import Slices
from perf.train.devices import World
from perf.train.stepping import Stepping


class FakeTime:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Return the time, seconds."""
        return self.now_s


def run(step_s: list[float], pauses_s: list[float], cuts: list[int]) -> list[Stepped]:
    """Return the slices of a run whose steps and pauses take so long."""
    fake, pauses, steps = FakeTime(), iter(pauses_s), iter(step_s)
    found: list[Stepped] = []

    def step() -> dict[str, float]:
        fake.now_s += next(steps)
        return {"loss": float(stepping.global_step), "norm": 1.0}

    stepping = Stepping(step, world=World())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", fake)
        slices = Slices(stepping, torch.device("cpu"), 32)
        for num_steps in cuts:
            fake.now_s += next(pauses)
            found.append(slices.make(num_steps))
    return found


@given(data=st.data(), cuts=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_pauses_do_not_count(data: Any, cuts: list[int]) -> None:
    """Whatever the steps and the pauses take.

    Each step has its own time, and rates are samples over the steps' seconds.
    """
    number = sum(cuts)
    step_s = data.draw(st.lists(st.floats(0.001, 10.0), min_size=number, max_size=number))
    pauses_s = data.draw(st.lists(st.floats(0.0, 100.0), min_size=len(cuts), max_size=len(cuts)))
    found = run(step_s, pauses_s, cuts)
    times = [b - a for part in found for a, b in zip(part.marks, part.marks[1:], strict=False)]
    assert times == pytest.approx(step_s, abs=1e-9)
    assert [len(part.marks) - 1 for part in found] == cuts
    assert [loss for part in found for loss in part.losses] == [float(i) for i in range(number)]
    assert all(part.scalars == {"norm": (1.0,) * n} for part, n in zip(found, cuts, strict=True))
    for i, part in enumerate(found):
        (line,) = part.lines
        done = sum(cuts[: i + 1])
        assert line.startswith(f"Step={done}, Loss={done - 1:.5f}")
        rate = float(line.split("GlobalRate=")[1].split()[0])
        assert rate == pytest.approx(32 * done / sum(step_s[:done]), rel=1e-3, abs=0.01)


def test_reading_the_losses_is_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last mark follows it, as in a run that logs; the first precedes the first step."""
    events: list[str] = []
    stepping = Stepping(lambda: events.append("step") or 1.0, world=World())
    read = stepping.read
    monkeypatch.setattr(stepping, "read", lambda: (events.append("read"), read()))
    monkeypatch.setattr(time, "perf_counter", lambda: (events.append("clock"), float(len(events)))[1])
    Slices(stepping, torch.device("cpu"), 8).make(2)
    assert events[0] == events[-1] == "clock"
    assert [event for event in events if event != "clock"] == ["step", "step", "read"]
    assert events.index("read") < len(events) - 1


def test_on_a_gpu_steps_are_marked_by_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is waited for at the beginning and at the end of a slice only; in between its own clock counts."""
    fake, waits = FakeTime(), []

    class Event:
        """In the place of an event of a device that follows at once."""

        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            """Note the time."""
            self.at_s = fake.now_s

        def elapsed_time(self, other: Event) -> float:
            """Return the milliseconds from here to another event."""
            return 1e3 * (other.at_s - self.at_s)

    def step() -> float:
        fake.now_s += 2.0
        return 1.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waits.append(fake.now_s))
    monkeypatch.setattr(time, "perf_counter", fake)
    slices = Slices(Stepping(step, world=World()), torch.device("cuda"), 8)
    assert slices.make(3).marks == pytest.approx((100.0, 102.0, 104.0, 106.0))
    fake.now_s += 50.0
    assert slices.make(1).marks == pytest.approx((156.0, 158.0))
    assert set(waits) == {100.0, 106.0, 156.0, 158.0}
