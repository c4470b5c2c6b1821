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
    fake, pauses, steps, todo = FakeTime(), iter(pauses_s), iter(step_s), iter([*cuts, 0])
    found: list[Stepped] = []

    def next_slice(ended: Stepped | None) -> int:
        fake.now_s += next(pauses)
        if ended is not None:
            found.append(ended)
        return next(todo)

    def step() -> dict[str, float]:
        fake.now_s += next(steps)
        return {"loss": float(stepping.global_step), "norm": 1.0}

    stepping = Stepping(step, world=World())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", fake)
        Slices(next_slice, stepping, torch.device("cpu")).run(32)
    return found


@given(data=st.data(), cuts=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_pauses_do_not_count(data: Any, cuts: list[int]) -> None:
    """Whatever the steps and the pauses take: each step has its own time, and rates are samples over the steps' seconds."""
    number = sum(cuts)
    step_s = data.draw(st.lists(st.floats(0.001, 10.0), min_size=number, max_size=number))
    pauses_s = data.draw(st.lists(st.floats(0.0, 100.0), min_size=len(cuts) + 1, max_size=len(cuts) + 1))
    found = run(step_s, pauses_s, cuts)
    times = [b - a for part in found for a, b in zip(part.marks, part.marks[1:], strict=False)]
    assert times == pytest.approx(step_s, abs=1e-9)
    assert [len(part.marks) - 1 for part in found] == cuts
    assert [loss for part in found for loss in part.losses] == [float(i) for i in range(number)]
    assert all(part.scalars == {"norm": (1.0,) * n} for part, n in zip(found, cuts, strict=True))
    (line,) = found[-1].lines
    assert line.startswith(f"Step={number}, Loss={number - 1:.5f}")
    rate = float(line.split("GlobalRate=")[1].split()[0])
    assert rate == pytest.approx(32 * number / sum(step_s), rel=1e-3, abs=0.01)


def test_reading_the_losses_is_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last mark follows it, as in a run that logs; the first precedes the first step."""
    events: list[str] = []
    stepping = Stepping(lambda: events.append("step") or 1.0, world=World())
    read = stepping.read
    monkeypatch.setattr(stepping, "read", lambda: (events.append("read"), read()))
    told = iter([2, 0])
    monkeypatch.setattr(time, "perf_counter", lambda: (events.append("clock"), float(len(events)))[1])
    Slices(lambda ended: (events.append("wait"), next(told))[1], stepping, torch.device("cpu")).run(8)
    waits = [i for i, event in enumerate(events) if event == "wait"]
    inside = events[waits[0] + 1 : waits[1]]
    assert inside[0] == "clock"
    assert [event for event in inside if event != "clock"] == ["step", "step", "read"]
    assert inside.index("read") < len(inside) - 1
    assert inside[-1] == "clock"
