"""Pairs of runs, one of each side: both at once on swapped cores, or in turns, slice by slice."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from perf.errors import MeasureError
from perf.measure.attribution import PhaseTime
from perf.measure.counters import StepCounters
from perf.measure.fingerprint import Fingerprint
from perf.measure.pairs import Marks, Pair, alternating_effect, simultaneous_effect
from perf.measure.processes import Answer, Process
from perf.measure.sides import Side
from perf.measure.stepper import PROTOCOL, SideSpec

RUN_S = 0.8
"""About how long a side steps in a run."""

SWAP_S = 0.03
"""Time between two swaps of the sides' cores; docs/decisions.md, 15, has what other periods gave."""

BLOCKS = 3
"""Blocks of four slices (ABBA) in a pair of alternating runs."""

PAIRS_PER_START = 15
"""After so many pairs the processes that fork the runs are started anew."""

ATTRIBUTION_VISITS = 7

LEAST_S = 10.0
"""What a start of the sides' processes must leave of the budget to be worth it."""

COMPARED_STEPS = 8
"""Steps whose losses must agree."""

SIDE_TIMEOUT_S = 300.0
"""How long a side may take to start, to count, or to make one slice."""

BOTH = (0, 1)

PARTS = {
    "ready": ("protocol",),
    "waiting": ("pid", "step_s", "losses"),
    "stepped": ("marks", "losses"),
    "counted": ("counters", "micro_batch_size", "device", "precision", "python", "fingerprint"),
    "attributed": ("rows",),
    "ended": ("exit_code",),
}
"""What each answer of a side must hold."""


class Mode(StrEnum):
    """How two sides share a machine."""

    SIMULTANEOUS = "simultaneous"
    ALTERNATING = "alternating"


@dataclass(frozen=True, kw_only=True, slots=True)
class SideWork:
    """What a side does and what it is, at one batch size.

    Attributes:
        counters: of one step.
        losses: of the first steps, nats.
        micro_batch_size, device, precision: as the side resolved them.
        python: what its count of Python calls belongs to.
        fingerprint: its machine and software.
    """

    counters: StepCounters
    losses: tuple[float, ...]
    micro_batch_size: int
    device: str
    precision: str
    python: str
    fingerprint: Fingerprint


def choose_mode(sides: Sequence[Mapping[str, str]], *, num_gpus: int, cores: Collection[int]) -> tuple[Mode, str]:
    """Return how two sides are to share this machine, and why.

    Args:
        sides: what each side sets in its environment.
        num_gpus: how many there are.
        cores: that this process may use.
    """
    if num_gpus:
        return Mode.ALTERNATING, "one GPU can only serve one side at a time"
    if not hasattr(os, "sched_setaffinity"):
        return Mode.ALTERNATING, "this system cannot pin a process to a core"
    if len(cores) < 2:
        return Mode.ALTERNATING, "there is one core"
    for environ in sides:
        for name in environ:
            if name.startswith(("OMP_", "GOMP_", "KMP_", "MKL_")):
                return Mode.ALTERNATING, f"a side sets {name}, which half a machine would not show"
    each = len(cores) // 2
    return Mode.SIMULTANEOUS, f"each side on {each} of {len(cores)} cores, swapped every {1e3 * SWAP_S:.0f} ms"


class Duet:
    """Two sides that train the same, measured pair by pair.

    Args:
        sides: the baseline and the candidate.
        specs: what each batch size's runs train.
        mode: how they share the machine.
        cores: to share in simultaneous mode.
        rng: decides every order that could favour a side.
        clock: of the duet, seconds.
    """

    def __init__(
        self,
        sides: tuple[Side, Side],
        specs: Mapping[int, SideSpec],
        *,
        mode: Mode,
        cores: Collection[int],
        rng: np.random.Generator,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sides, self._specs, self.mode, self._rng, self._clock = sides, specs, mode, rng, clock
        each = len(cores) // 2
        self._halves = [set(sorted(cores)[:each]), set(sorted(cores)[each : 2 * each])]
        self._num_starts = 0

    def pairs(self, wanted: Callable[[], Collection[int]], *, budget_s: float) -> Iterator[Pair]:
        """Yield pairs of the batch sizes that `wanted` names, in rounds of random order, until it names none.

        Args:
            wanted: what is still to be measured.
            budget_s: after so many seconds it will name none; near their end no process is started anew.

        Raises:
            MeasureError: a side failed; it is named, with its last lines. All processes are gone.
        """
        began = self._clock()
        while wanted():
            with self._started() as processes:
                for number, size in enumerate(self._rounds(wanted)):
                    if number >= PAIRS_PER_START and self._clock() - began < budget_s - LEAST_S:
                        break
                    effect, slices = self._pair(processes, size)
                    yield Pair(
                        global_batch_size=size,
                        start=self._num_starts - 1,
                        ended_s=self._clock() - began,
                        effect=effect,
                        baseline=slices[0],
                        candidate=slices[1],
                    )

    def _rounds(self, wanted: Callable[[], Collection[int]]) -> Iterator[int]:
        while round_ := sorted(wanted()):
            for size in self._rng.permutation(round_).tolist():
                if size in wanted():
                    yield size

    def work(self) -> dict[int, tuple[SideWork, SideWork]]:
        """Return what both sides do in a step, by batch size; they count at the same time, since nothing is timed."""
        found = {}
        with self._started() as processes:
            for size in self._specs:
                for i in BOTH:
                    self._request(processes[i], "count", size)
                counted = [self._answer(processes, i, "counted", "ended") for i in BOTH]
                losses = [self._first_losses(processes, i, size) for i in BOTH]
                found[size] = (_side_work(counted[0], losses[0]), _side_work(counted[1], losses[1]))
        return found

    def _first_losses(self, processes: Sequence[Process], i: int, size: int) -> list[float]:
        self._request(processes[i], "run", size)
        before: list[float] = self._answer(processes, i, "waiting")["losses"]
        processes[i].tell(f"{COMPARED_STEPS - len(before)}")
        after: list[float] = self._answer(processes, i, "stepped")["losses"]
        processes[i].tell("0")
        self._answer(processes, i, "ended")
        return before + after

    def attribution(self, size: int) -> tuple[list[list[PhaseTime]], list[list[PhaseTime]]]:
        """Return where the time of a step goes on each side, in several visits in turns."""
        visits: tuple[list[list[PhaseTime]], list[list[PhaseTime]]] = ([], [])
        with self._started() as processes:
            for _ in range(ATTRIBUTION_VISITS):
                for i in self._order():
                    self._request(processes[i], "attribute", size)
                    answer = self._answer(processes, i, "attributed", "ended")
                    visits[i].append([PhaseTime(**row) for row in answer["rows"]])
        return visits

    @contextmanager
    def _started(self) -> Iterator[list[Process]]:
        with ExitStack() as stack:
            processes = []
            for side in self.sides:
                with _named(side):
                    process = Process(side.command, environ=side.environ, cwd=side.root)
                processes.append(stack.enter_context(process))
            for i, side in enumerate(self.sides):
                protocol = self._answer(processes, i, "ready").get("protocol")
                if protocol != PROTOCOL:
                    raise MeasureError(
                        f"{side.name} side ({side.text}): speaks protocol {protocol}, and {PROTOCOL} is needed; "
                        "compare with a commit whose perf/measure/stepper.py speaks it"
                    )
            self._num_starts += 1
            yield processes

    def _order(self) -> list[int]:
        return [int(i) for i in self._rng.permutation(2)]

    def _request(self, process: Process, do: str, size: int) -> None:
        layout = int(self._rng.integers(2**32))
        process.tell(json.dumps({"do": do, "spec": self._specs[size].as_json(), "layout": layout}))

    def _answer(self, processes: Sequence[Process], i: int, *events: str) -> Answer:
        """Return the first of the answers of a side that are due now."""
        with _named(self.sides[i]):
            answers = [processes[i].answer(event, timeout_s=SIDE_TIMEOUT_S) for event in events]
            for event, answer in zip(events, answers, strict=True):
                if missing := [name for name in PARTS[event] if name not in answer]:
                    raise MeasureError(f"said {event!r} without {', '.join(missing)}, which is no answer")
        return answers[0]

    def _pair(self, processes: Sequence[Process], size: int) -> tuple[float, tuple[tuple[Marks, ...], ...]]:
        """Return the effect and the slices of a fresh run of each side."""
        waiting: dict[int, Answer] = {}
        if self.mode is Mode.SIMULTANEOUS:
            for i in self._order():
                self._request(processes[i], "run", size)
            waiting = {i: self._answer(processes, i, "waiting") for i in BOTH}
        else:
            for i in self._order():  # each warms up alone: two at once would fight for the cores
                self._request(processes[i], "run", size)
                waiting[i] = self._answer(processes, i, "waiting")
        step_s = max(answer["step_s"] for answer in waiting.values())
        if self.mode is Mode.SIMULTANEOUS:
            slices = self._at_once(processes, [waiting[i]["pid"] for i in BOTH], max(2, round(RUN_S / step_s)))
            effect = simultaneous_effect(slices[0][0], slices[1][0])
        else:
            slices = self._in_turns(processes, max(1, round(RUN_S / step_s / (2 * BLOCKS))))
            effect = alternating_effect(*slices)
        for i in BOTH:
            processes[i].tell("0")
            self._answer(processes, i, "ended")
        zero = min(side[0][0] for side in slices)
        return effect, tuple(tuple(tuple(mark - zero for mark in marks) for marks in side) for side in slices)

    def _at_once(self, processes: Sequence[Process], pids: Sequence[int], num_steps: int) -> list[list[Marks]]:
        """Let both sides make `num_steps`, each on its half of the cores, and swap the halves until both are done."""
        swapped = bool(self._rng.integers(2))
        self._pin(pids, swapped=swapped)
        for i in self._order():
            processes[i].tell(f"{num_steps}")
        working = {0, 1}
        marks: dict[int, Marks] = {}
        deadline = time.monotonic() + SIDE_TIMEOUT_S
        while working:
            ready = select.select([processes[i] for i in working], [], [], SWAP_S)[0]
            for i in [i for i in working if processes[i] in ready]:
                marks[i] = tuple(self._answer(processes, i, "stepped")["marks"])
                working.remove(i)
            if not ready:
                swapped = not swapped
                self._pin(pids, swapped=swapped)
            if time.monotonic() > deadline:
                for i in working:
                    self._answer(processes, i, "stepped")
        return [[marks[i]] for i in BOTH]

    def _pin(self, pids: Sequence[int], *, swapped: bool) -> None:
        for i in BOTH:
            half = self._halves[i != swapped]
            with suppress(OSError):  # it has ended; the answer that does not come says why
                for task in Path(f"/proc/{pids[i]}/task").iterdir():
                    os.sched_setaffinity(int(task.name), half)

    def _in_turns(self, processes: Sequence[Process], num_steps: int) -> list[list[Marks]]:
        """Let the sides make slices of `num_steps` in blocks of ABBA or BAAB: one at a time."""
        slices: list[list[Marks]] = [[], []]
        for _ in range(BLOCKS):
            first, second = self._order()
            for i in (first, second, second, first):
                processes[i].tell(f"{num_steps}")
                slices[i].append(tuple(self._answer(processes, i, "stepped")["marks"]))
        return slices


def _side_work(counted: Answer, losses: Sequence[float]) -> SideWork:
    return SideWork(
        counters=StepCounters(**counted["counters"]),
        losses=tuple(losses),
        micro_batch_size=counted["micro_batch_size"],
        device=counted["device"],
        precision=counted["precision"],
        python=counted["python"],
        fingerprint=Fingerprint(**counted["fingerprint"]),
    )


@contextmanager
def _named(side: Side) -> Iterator[None]:
    """Say which side an error is of."""
    try:
        yield
    except MeasureError as error:
        raise MeasureError(f"{side.name} side ({side.text}): {error}") from None
