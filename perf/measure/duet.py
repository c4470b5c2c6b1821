"""Pairs of runs, one of each side: both at once on swapped cores, or in turns, slice by slice."""

import os
import select
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from perf.errors import MeasureError
from perf.measure.runners import ANSWER_TIMEOUT_S, Runner, asked_once, run_command
from perf.measure.sides import Side
from perf.records.sessions import (
    Marks,
    Mode,
    Pair,
    alternating_effect,
    is_command,
    pairs_per_start,
    simultaneous_effect,
)
from perf.records.wire import Attributed, CaseSpec, Counted, PhaseTime, Request, SideWork, Stepped, Waiting, side_work

RUN_S = 0.8  # about how long a side steps in a run
SWAP_S = 0.01  # time between two swaps of the sides' cores; docs/decisions.md, 15, has what other periods gave
BLOCKS = 3  # blocks of four slices (ABBA) in a pair of alternating runs
ATTRIBUTION_VISITS = 7
COMPARED_STEPS = 8  # steps whose losses must agree
WARMUP_STEPS = 2  # untimed steps of a run: they allocate buffers and the optimizer's state
RUNS_PER_PAIR = 4  # of a command, two of each side
BOTH = (0, 1)


def usable_cores() -> set[int]:
    """Return the numbers of the cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def choose_mode(sides: Sequence[Mapping[str, str]], *, num_gpus: int, cores: Collection[int]) -> tuple[Mode, str]:
    """Return how two sides are to share cores and GPUs, and why; `sides` are the variables that each sets."""
    if num_gpus:
        return Mode.ALTERNATING, "one GPU can only serve one side at a time"
    if not hasattr(os, "sched_setaffinity"):
        return Mode.ALTERNATING, "this system cannot pin a process to a core"
    if len(cores) < 2:
        return Mode.ALTERNATING, "there is one core"
    for name in (name for environ in sides for name in environ):
        if name.startswith(("OMP_", "GOMP_", "KMP_", "MKL_")):
            return Mode.ALTERNATING, f"a side sets {name}, which half a machine would not show"
    each = len(cores) // 2
    return Mode.SIMULTANEOUS, f"each side on {each} of {len(cores)} cores, swapped every {1e3 * SWAP_S:.0f} ms"


class Duet:
    """Two sides that train the same, measured pair by pair."""

    def __init__(
        self,
        sides: tuple[Side, Side],  # the baseline and the candidate
        cases: Mapping[int, CaseSpec],  # by global batch size
        *,
        mode: Mode,
        cores: Collection[int],  # to share in simultaneous mode
        num_threads: int = 0,  # of each side's runs; 0 leaves what its environment says
        command_steps: int = 0,  # of each run of a command
        rng: np.random.Generator,  # draws every order that could give a side an advantage
    ) -> None:
        self.sides, self._cases, self.mode, self._rng, self._num_threads = sides, cases, mode, rng, num_threads
        each = len(cores) // 2
        self._halves = [set(sorted(cores)[:each]), set(sorted(cores)[each : 2 * each])]
        self.is_whole = is_command(sides[0].workload)  # whether a run is a whole command, of so many steps
        self.command_steps = command_steps
        self.run_s: dict[int, float] = {}  # what a whole run of the baseline took, by batch size
        self._num_starts = 0
        self._began_s: float | None = None
        self.start_s = 0.0  # what the last start of the sides' processes took
        self.pairs_per_start: int | None = None  # of each batch size; None before the first pair

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first start began."""
        return 0.0 if self._began_s is None else time.monotonic() - self._began_s

    def start(
        self,
        sizes: Collection[int],  # the batch sizes to measure, in rounds of random order
        *,
        budget_s: float,  # of the whole duet
        on_pair: Callable[[Pair], object] = lambda pair: None,  # what was measured survives what fails after it
    ) -> list[Pair]:
        """Start the processes of both sides anew and return as many pairs of each batch size as suit the budget.

        Raises:
            MeasureError: a side failed; it is named, with its last lines. All processes are gone.
        """
        began_s = time.monotonic()
        if self._began_s is None:
            self._began_s = began_s
        pairs: list[Pair] = []
        with self._started() as runners:
            self._num_starts += 1
            ready_s = time.monotonic()
            self.start_s = ready_s - began_s
            while not pairs or len(pairs) < len(sizes) * (self.pairs_per_start or 1):
                for size in self._rng.permutation(sorted(sizes)).tolist():
                    pairs.append(self._pair(runners, size))
                    on_pair(pairs[-1])
                if self.pairs_per_start is None:
                    round_s = time.monotonic() - ready_s
                    self.pairs_per_start = pairs_per_start(start_s=self.start_s, round_s=round_s, budget_s=budget_s)
        return pairs

    def work(self) -> dict[int, tuple[SideWork, SideWork]]:
        """Return what both sides do in a step, by batch size, and what their first steps return.

        Both count, and then step, at the same time, since nothing is timed.
        """
        if self.is_whole:
            return {size: self._command_work(size) for size in self._cases}
        found = {}
        with self._started() as runners:
            for size in self._cases:
                for runner in runners:
                    self._ask(runner, "count", size)
                counted = [runner.only_answer(Counted) for runner in runners]
                for runner in runners:
                    self._ask(runner, "run", size, warmup_steps=COMPARED_STEPS)
                first = [runner.waiting() for runner in runners]
                for runner in runners:
                    runner.end_run()
                found[size] = (
                    side_work(counted[0], first[0].losses, first[0].scalars),
                    side_work(counted[1], first[1].losses, first[1].scalars),
                )
        return found

    def _command_work(self, size: int) -> tuple[SideWork, SideWork]:
        """Return what runs of both sides print, one at a time; where it differs, also another of the baseline."""
        began_s, runs = time.monotonic(), []
        for side in self.sides:
            runs.append(run_command(side, self._cases[size], self.command_steps))
            self.run_s.setdefault(size, time.monotonic() - began_s)
        if runs[0].losses != runs[1].losses:
            runs.append(run_command(self.sides[0], self._cases[size], self.command_steps))
        baseline, candidate = (
            side_work(asked_once(side, self._cases[size]), run.losses, {})
            for side, run in zip(self.sides, runs, strict=False)
        )
        return msgspec.structs.replace(baseline, reruns=tuple(run.losses for run in runs[2:])), candidate

    def attribution(self, size: int) -> tuple[list[list[PhaseTime]], list[list[PhaseTime]]]:
        """Return where the time of a step goes on each side, in several visits in turns."""
        visits: tuple[list[list[PhaseTime]], list[list[PhaseTime]]] = ([], [])
        with self._started() as runners:
            for _ in range(ATTRIBUTION_VISITS):
                for i in self._order():
                    self._ask(runners[i], "attribute", size, layout=int(self._rng.integers(2**32)))
                    visits[i].append(list(runners[i].only_answer(Attributed).rows))
        return visits

    @contextmanager
    def _started(self) -> Iterator[list[Runner]]:
        with ExitStack() as stack:
            if self.is_whole:
                yield []
                return
            started = {i: Runner(stack, self.sides[i]) for i in self._order()}
            runners = [started[i] for i in BOTH]
            for runner in runners:
                runner.ready()
            yield runners

    def _ask(self, runner: Runner, do: str, size: int, **options: Any) -> None:
        runner.request(Request(do=do, case=self._cases[size], num_threads=self._num_threads, **options))

    def _order(self) -> list[int]:
        return [int(i) for i in self._rng.permutation(2)]

    def _pair(self, runners: Sequence[Runner], size: int) -> Pair:
        """Return what a fresh run of each side gave; of commands, what four did, in a block of ABBA or BAAB."""
        if self.is_whole:
            return self._commands_pair(size)
        waiting: dict[int, Waiting] = {}
        for i in self._order():
            self._ask(runners[i], "run", size, layout=int(self._rng.integers(2**32)), warmup_steps=WARMUP_STEPS)
            if self.mode is Mode.ALTERNATING:  # each warms up alone: two at once would fight for the cores
                waiting[i] = runners[i].waiting()
        if self.mode is Mode.SIMULTANEOUS:
            waiting = {i: runners[i].waiting() for i in BOTH}
        step_s = max(run.step_s or RUN_S for run in waiting.values())
        if self.mode is Mode.SIMULTANEOUS:
            slices = self._at_once(runners, [waiting[i].pid for i in BOTH], max(2, round(RUN_S / step_s)))
            effect = simultaneous_effect(slices[0][0], slices[1][0])
        else:
            slices = self._in_turns(runners, max(1, round(RUN_S / step_s / (2 * BLOCKS))))
            effect = alternating_effect(*slices)
        if not np.isfinite(effect):
            raise MeasureError(
                f"{self.sides[0].text} and {self.sides[1].text}: were never stepping at the same time, by their own "
                "clocks; one was stalled for a whole run, or reports wrong times; try again on a less busy machine"
            )
        for i in BOTH:
            runners[i].end_run()
        return self._kept(size, slices, effect)

    def _kept(self, size: int, slices: Sequence[Sequence[Marks]], effect: float, **more: Any) -> Pair:
        zero = min(side[0][0] for side in slices)
        baseline, candidate = (tuple(tuple(mark - zero for mark in marks) for marks in side) for side in slices)
        return Pair(
            global_batch_size=size,
            start=self._num_starts - 1,
            ended_s=self.elapsed_s,
            effect=effect,
            baseline=baseline,
            candidate=candidate,
            **more,
        )

    def _commands_pair(self, size: int) -> Pair:
        """Return what whole runs gave: their times from the first step line to the last, without the start."""
        runs: tuple[list[Stepped], list[Stepped]] = [], []
        first, second = self._order()
        for i in (first, second, second, first):
            runs[i].append(run_command(self.sides[i], self._cases[size], self.command_steps))
        (begin, end), *other = sorted({(run.steps[0], run.steps[-1]) for side in runs for run in side})
        if other:
            raise MeasureError(f"{size}: the sides print lines from {(begin, end)} and {other[0]}, of other steps")
        slices = [[run.marks[1:] for run in side] for side in runs]
        losses = tuple(tuple(run.losses for run in side) for side in runs)
        return self._kept(size, slices, alternating_effect(*slices), num_steps=end - begin, losses=losses)

    def _at_once(self, runners: Sequence[Runner], pids: Sequence[int], num_steps: int) -> list[list[Marks]]:
        """Let both sides make `num_steps`, each on its half of the cores, and swap the halves until both are done.

        Whoever is moved first waits for the other to leave its core. So the order alternates, in twos: each side comes
        first as often as the other, in both directions of the swap.
        """
        turns = int(self._rng.integers(4))
        self._pin(pids, turns)
        for i in self._order():
            runners[i].tell(num_steps)
        working = {0, 1}
        marks: dict[int, Marks] = {}
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while working:
            ready = select.select([runners[i] for i in working], [], [], SWAP_S)[0]
            for i in [i for i in working if runners[i] in ready]:
                marks[i] = runners[i].stepped().marks
                working.remove(i)
            if not ready:
                turns += 1
                self._pin(pids, turns)
            if working and time.monotonic() > deadline:
                raise runners[min(working)].error(f"no answer within {ANSWER_TIMEOUT_S:.0f} s")
        return [[marks[i]] for i in BOTH]

    def _pin(self, pids: Sequence[int], turns: int) -> None:
        """Give each side its half of the cores for this turn; of four turns, each side is moved first in two."""
        for i in BOTH if turns // 2 % 2 else BOTH[::-1]:
            half = self._halves[(i + turns) % 2]
            with suppress(OSError):  # it has ended; the answer that does not come says why
                for task in Path(f"/proc/{pids[i]}/task").iterdir():
                    os.sched_setaffinity(int(task.name), half)

    def _in_turns(self, runners: Sequence[Runner], num_steps: int) -> list[list[Marks]]:
        """Let the sides make slices of `num_steps` in blocks of ABBA or BAAB: one at a time."""
        slices: list[list[Marks]] = [[], []]
        for _ in range(BLOCKS):
            first, second = self._order()
            for i in (first, second, second, first):
                runners[i].tell(num_steps)
                slices[i].append(runners[i].stepped().marks)
        return slices
