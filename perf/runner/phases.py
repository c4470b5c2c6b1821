"""The parts that a step is made of, as they begin and end, and the time charged to their phases.

Some parts are known when they begin. What lies between two of them is told by both: what comes before a forward pass
is "data" at the beginning of a step, and "other" after an update.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

_PASSES = ("forward", "backward")


class Costs:
    """Seconds by operation (None: outside of all operations), how often each was dispatched, and from where."""

    def __init__(self) -> None:
        self.counts: Counter[Hashable] = Counter()  # by operation
        self.lines: Counter[tuple[Hashable, str]] = Counter()  # how often, by operation and source line
        self.seconds: defaultdict[Hashable, float] = defaultdict(float)  # by operation

    def add(self, costs: Costs) -> None:
        """Add other costs to these."""
        self.counts.update(costs.counts)
        self.lines.update(costs.lines)
        for operation, seconds in costs.seconds.items():
            self.seconds[operation] += seconds


class Part:
    """A part whose phase is known when it begins; `gives_way` to parts that hooks find in it."""

    def __init__(self, phase: str, *, gives_way: bool = False) -> None:
        self.phase, self.gives_way = phase, gives_way


class Gap(Part):
    """What lies between the known parts of a step, or of an optimizer's closure; its neighbours may tell its phase."""

    def __init__(self, phase: str) -> None:
        super().__init__(phase, gives_way=True)
        self.follows = "start"  # the phase of the last part
        self.is_recorded = False  # whether an operation was recorded for a backward pass
        self.costs = Costs(), Costs()  # before that operation, and from there on

    def phases_before(self, phase: str) -> tuple[str, str]:
        """Return the phases of `costs` if the next part is in `phase`, or is the "end"."""
        told = self.phase
        if phase in _PASSES and self.follows == "forward":
            told = "forward"  # the loss
        elif self.phase == "other" and self.follows == "start":
            told = "data" if phase == "forward" or (phase == "backward" and self.is_recorded) else told
        elif self.phase == "other" and self.follows == "backward" and phase == "optimizer":
            told = "clip"
        return told, "forward" if phase in _PASSES else told


class Timeline:
    """Charges the time that passes to the innermost part."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.phases: defaultdict[str, Costs] = defaultdict(Costs)  # what is in a gap is charged when it ends
        self._clock = clock
        self._parts = [Part("other")]
        self._charged_until = clock()

    @property
    def part(self) -> Part:
        """The innermost part."""
        return self._parts[-1]

    def is_in(self, phase: str) -> bool:
        """Return whether a part in `phase` has begun and not ended."""
        return any(part.phase == phase for part in self._parts)

    @contextmanager
    def inside(self, part: Part) -> Iterator[None]:
        """Be in a part, and then in the surrounding one again, whatever began in it and did not end."""
        depth = len(self._parts)
        self.begin(part)
        try:
            yield
        finally:
            while len(self._parts) > depth:
                self.end()

    def begin(self, part: Part) -> None:
        """Be in a part until `end`. It may be the innermost one, which then only goes on."""
        if part is not self.part:
            self._leave(part.phase)
        self._parts.append(part)

    def end(self) -> None:
        """Be in the surrounding part again."""
        if self._parts[-1] is not self._parts[-2]:
            self._leave("end")
        self._parts.pop()

    def charge(self, operation: Hashable = None, line: str = "") -> None:
        """Charge what passed since the last time to the operation that has ended, which is counted, or to none.

        `line` is where it was called; "" where that is not asked for.
        """
        now, part = self._clock(), self.part
        costs = part.costs[part.is_recorded] if isinstance(part, Gap) else self.phases[part.phase]
        costs.seconds[operation] += now - self._charged_until
        costs.counts[operation] += operation is not None
        if line:
            costs.lines[operation, line] += 1
        self._charged_until = now

    def _leave(self, phase: str) -> None:
        """Charge the innermost part. A gap is told by the phase that follows; "other" only interrupts it."""
        self.charge()
        gap = self.part
        if isinstance(gap, Gap) and phase != "other":
            for told, costs in zip(gap.phases_before(phase), gap.costs, strict=True):
                self.phases[told].add(costs)
            gap.follows, gap.is_recorded, gap.costs = phase, False, (Costs(), Costs())
