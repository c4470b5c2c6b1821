"""Pairs of runs, one of each side: both at once on swapped cores, or in turns, slice by slice."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path

import numpy as np

from perf.errors import MeasureError
from perf.measure.processes import Answer, Process, started
from perf.measure.sides import Side
from perf.records.pairs import Marks, Pair, alternating_effect, pairs_per_start, simultaneous_effect
from perf.records.phases import PhaseTime
from perf.records.wire import (
    SideSpec,
    SideWork,
    Waiting,
    read_attributed,
    read_counted,
    read_ready,
    read_stepped,
    read_waiting,
    request,
)

RUN_S = 0.8
"""About how long a side steps in a run."""

SWAP_S = 0.01
"""Time between two swaps of the sides' cores; docs/decisions.md, 15, has what other periods gave."""

BLOCKS = 3
"""Blocks of four slices (ABBA) in a pair of alternating runs."""

ATTRIBUTION_VISITS = 7

COMPARED_STEPS = 8
"""Steps whose losses must agree."""

SIDE_TIMEOUT_S = 300.0
"""How long a side may take to start, to count, or to make one slice."""

BOTH = (0, 1)


class Mode(StrEnum):
    """How two sides share a machine."""

    SIMULTANEOUS = "simultaneous"
    ALTERNATING = "alternating"


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

    Attributes:
        start_s: what the last start of the sides' processes took, seconds.
        pairs_per_start: of each batch size; None before the first pair.
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
        self._can: list[frozenset[str]] = [frozenset(), frozenset()]
        self._began_s: float | None = None
        self.start_s = 0.0
        self.pairs_per_start: int | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first start began."""
        return 0.0 if self._began_s is None else self._clock() - self._began_s

    def start(
        self, sizes: Collection[int], *, budget_s: float, on_pair: Callable[[Pair], object] = lambda pair: None
    ) -> list[Pair]:
        """Start the processes of both sides anew and return as many pairs of each batch size as suit the budget.

        Args:
            sizes: the batch sizes to measure, in rounds of random order.
            budget_s: of the whole duet, seconds.
            on_pair: called after each pair: what was measured survives a failure of what comes after.

        Raises:
            MeasureError: a side failed; it is named, with its last lines. All processes are gone.
        """
        began_s = self._clock()
        if self._began_s is None:
            self._began_s = began_s
        pairs: list[Pair] = []
        with self._started() as processes:
            self._num_starts += 1
            ready_s = self._clock()
            self.start_s = ready_s - began_s
            while not pairs or len(pairs) < len(sizes) * (self.pairs_per_start or 1):
                for size in self._rng.permutation(sorted(sizes)).tolist():
                    effect, slices = self._pair(processes, size)
                    pair = Pair(
                        global_batch_size=size,
                        start=self._num_starts - 1,
                        ended_s=self.elapsed_s,
                        effect=effect,
                        baseline=slices[0],
                        candidate=slices[1],
                    )
                    pairs.append(pair)
                    on_pair(pair)
                if self.pairs_per_start is None:
                    self.pairs_per_start = pairs_per_start(
                        start_s=self.start_s, round_s=self._clock() - ready_s, budget_s=budget_s
                    )
        return pairs

    def work(self) -> dict[int, tuple[SideWork, SideWork]]:
        """Return what both sides do in a step, by batch size; they count at the same time, since nothing is timed."""
        found = {}
        with self._started() as processes:
            for size in self._specs:
                for i in BOTH:
                    self._request(processes, i, "count", size)
                counted = [self._answer(processes, i, "counted", "ended") for i in BOTH]
                losses = [self._first_losses(processes, i, size) for i in BOTH]
                with self._named(0):
                    baseline = read_counted(counted[0], losses[0])
                with self._named(1):
                    found[size] = (baseline, read_counted(counted[1], losses[1]))
        return found

    def _first_losses(self, processes: Sequence[Process], i: int, size: int) -> tuple[float, ...]:
        self._request(processes, i, "run", size)
        before = self._waiting(processes, i).losses
        processes[i].tell(f"{max(1, COMPARED_STEPS - len(before))}")
        after = self._stepped(processes, i)[1]
        processes[i].tell("0")
        self._answer(processes, i, "ended")
        return before + after

    def attribution(self, size: int) -> tuple[list[list[PhaseTime]], list[list[PhaseTime]]]:
        """Return where the time of a step goes on each side, in several visits in turns."""
        visits: tuple[list[list[PhaseTime]], list[list[PhaseTime]]] = ([], [])
        with self._started() as processes:
            for _ in range(ATTRIBUTION_VISITS):
                for i in self._order():
                    self._request(processes, i, "attribute", size)
                    answer = self._answer(processes, i, "attributed", "ended")
                    with self._named(i):
                        visits[i].append(read_attributed(answer))
        return visits

    @contextmanager
    def _started(self) -> Iterator[list[Process]]:
        with ExitStack() as stack:
            processes: dict[int, Process] = {}
            for i in self._order():
                side = self.sides[i]
                with self._named(i):
                    processes[i] = started(stack, side.command, environ=side.environ, cwd=side.root)
            both = [processes[i] for i in BOTH]
            for i in BOTH:
                answer = self._answer(both, i, "ready")
                with self._named(i):
                    self._can[i] = read_ready(answer)
            yield both

    def _order(self) -> list[int]:
        return [int(i) for i in self._rng.permutation(2)]

    def _request(self, processes: Sequence[Process], i: int, do: str, size: int) -> None:
        if do not in self._can[i]:
            with self._named(i):
                raise MeasureError(f"cannot be asked to {do}; take a commit whose sides can")
        processes[i].tell(request(do, self._specs[size], layout=int(self._rng.integers(2**32))))

    def _answer(self, processes: Sequence[Process], i: int, *events: str) -> Answer:
        """Return the first of the answers of a side that are due now."""
        with self._named(i):
            first, *_ = [processes[i].answer(event, timeout_s=SIDE_TIMEOUT_S) for event in events]
            return first

    def _waiting(self, processes: Sequence[Process], i: int) -> Waiting:
        answer = self._answer(processes, i, "waiting")
        with self._named(i):
            waiting = read_waiting(answer)
            with suppress(OSError):  # it has ended, or this system has no process groups
                if os.getpgid(waiting.pid) != processes[i].pid:
                    raise MeasureError(f"said 'waiting' with pid = {waiting.pid}, which is none of its processes")
            return waiting

    def _stepped(self, processes: Sequence[Process], i: int) -> tuple[Marks, tuple[float, ...]]:
        answer = self._answer(processes, i, "stepped")
        with self._named(i):
            return read_stepped(answer)

    @contextmanager
    def _named(self, i: int) -> Iterator[None]:
        """Say which side an error is of."""
        try:
            yield
        except MeasureError as error:
            raise MeasureError(f"{self.sides[i].name} side ({self.sides[i].text}): {error}") from None

    def _pair(self, processes: Sequence[Process], size: int) -> tuple[float, tuple[tuple[Marks, ...], ...]]:
        """Return the effect and the slices of a fresh run of each side."""
        waiting: dict[int, Waiting] = {}
        if self.mode is Mode.SIMULTANEOUS:
            for i in self._order():
                self._request(processes, i, "run", size)
            waiting = {i: self._waiting(processes, i) for i in BOTH}
        else:
            for i in self._order():  # each warms up alone: two at once would fight for the cores
                self._request(processes, i, "run", size)
                waiting[i] = self._waiting(processes, i)
        step_s = max(run.step_s for run in waiting.values())
        if self.mode is Mode.SIMULTANEOUS:
            slices = self._at_once(processes, [waiting[i].pid for i in BOTH], max(2, round(RUN_S / step_s)))
            effect = simultaneous_effect(slices[0][0], slices[1][0])
        else:
            slices = self._in_turns(processes, max(1, round(RUN_S / step_s / (2 * BLOCKS))))
            effect = alternating_effect(*slices)
        if not np.isfinite(effect):
            raise MeasureError(
                f"{self.sides[0].text} and {self.sides[1].text}: were never stepping at the same time, by their own clocks; one "
                "was stalled for a whole run, or does not report the times of its steps; try again on a less busy machine"
            )
        for i in BOTH:
            processes[i].tell("0")
            self._answer(processes, i, "ended")
        zero = min(side[0][0] for side in slices)
        return effect, tuple(tuple(tuple(mark - zero for mark in marks) for marks in side) for side in slices)

    def _at_once(self, processes: Sequence[Process], pids: Sequence[int], num_steps: int) -> list[list[Marks]]:
        """Let both sides make `num_steps`, each on its half of the cores, and swap the halves until both are done.

        Whoever is moved first waits for the other to leave its core. So the order alternates, in twos: each side comes
        first as often as the other, in both directions of the swap.
        """
        turns = int(self._rng.integers(4))
        self._pin(pids, turns)
        for i in self._order():
            processes[i].tell(f"{num_steps}")
        working = {0, 1}
        marks: dict[int, Marks] = {}
        deadline = time.monotonic() + SIDE_TIMEOUT_S
        while working:
            ready = select.select([processes[i] for i in working], [], [], SWAP_S)[0]
            for i in [i for i in working if processes[i] in ready]:
                marks[i] = self._stepped(processes, i)[0]
                working.remove(i)
            if not ready:
                turns += 1
                self._pin(pids, turns)
            if working and time.monotonic() > deadline:
                with self._named(min(working)):
                    raise MeasureError(f"no answer within {SIDE_TIMEOUT_S:.0f} s")
        return [[marks[i]] for i in BOTH]

    def _pin(self, pids: Sequence[int], turns: int) -> None:
        """Give each side its half of the cores for this turn; of four turns, each side is moved first in two."""
        for i in BOTH if turns // 2 % 2 else BOTH[::-1]:
            half = self._halves[(i + turns) % 2]
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
                slices[i].append(self._stepped(processes, i)[0])
        return slices
