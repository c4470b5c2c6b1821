"""A timeline charges every second once, in whatever order parts begin and end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perf.records.wire import PYTHON
from perf.runner.phases import Gap, Part, Timeline

PHASES = ("data", "forward", "backward", "clip", "optimizer", "other")
EVENTS = st.one_of(
    st.sampled_from(PHASES).map(lambda phase: ("part", phase)),
    st.sampled_from(["gap other", "gap optimizer", "again", "end"]).map(lambda name: (name, "")),
    st.sampled_from(["add", "mul"]).map(lambda operation: ("operation", operation)),
)


@given(events=st.lists(st.tuples(EVENTS, st.integers(0, 1000))))
def test_every_second_is_charged_once(events: list[tuple[tuple[str, str], int]]) -> None:
    """The charges of all phases are what passed, none is negative, and each operation is counted in some phase."""
    now, operations = 7.0, 0
    timeline = Timeline(lambda: now)
    depth = 0
    with timeline.inside(Gap("other")):
        for (event, name), seconds in events:
            now += seconds
            part = timeline.part
            if event == "operation":
                timeline.charge(name)
                operations += 1
            elif event == "end":
                if depth:
                    timeline.end()
                    depth -= 1
            else:
                begun = {"gap other": Gap("other"), "gap optimizer": Gap("optimizer"), "again": part}
                timeline.begin(begun.get(event) or Part(name))
                depth += 1
    charges = [charge for charges in timeline.phases.values() for charge in charges]
    assert sum(charge.seconds for charge in charges) == now - 7
    assert min(charge.seconds for charge in charges) >= 0
    assert sum(charge.operation != PYTHON for charge in charges) == operations
    assert set(timeline.phases) <= set(PHASES)
