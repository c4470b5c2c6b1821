"""Runs in fresh processes, several batch sizes in turns: rounds, slices in random order, one process at a time."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import msgspec
import numpy as np

from perf.errors import MeasureError
from perf.logs.runlog import EndLine
from perf.measure.runners import Runner, asked_once, run_command
from perf.measure.sides import Side
from perf.printable import printable
from perf.records.sessions import MeasuredRun, Measurement, Session, find_warmup, is_command
from perf.records.wire import CaseSpec, Counted, Request, Stepped

# Steps between two pauses of a run; part of what is measured, since the first step of a slice finds cold caches.
SLICE_STEPS = 4


class _Run:
    """A run of one batch size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.slices: list[Stepped] = []
        self.counted = Counted()
        self.measured: MeasuredRun | None = None  # when it has ended
        self.failure = ""

    def end(self, counted: Counted) -> None:
        """Keep what was measured.

        Raises:
            MeasureError: its counters are not those of this version, or its answers do not fit together.
        """
        self.counted = counted
        step_s = [float(s) for part in self.slices for s in np.diff(part.marks)]
        end = EndLine(
            samples=self.size * len(step_s), seconds=sum(part.marks[-1] - part.marks[0] for part in self.slices)
        )
        lines = [*(printable(line) for part in self.slices for line in part.lines), str(end)]
        first, num_warmup = self.slices[0], 0
        if first.steps:  # of a command: each value is of a log window, and its own lines say the rest
            step_s = (np.array(step_s) / np.diff(first.steps, prepend=0)).tolist()
            lines, num_warmup = lines[:-1], 1
        found = {
            "step_s": step_s,
            "warmup_steps": max(find_warmup(step_s), num_warmup),
            "losses": [loss for part in self.slices for loss in part.losses],
            "lines": lines,
            "counters": counted.counters or None,
            "steps": first.steps,
            "printed_s": first.printed_s,
            "scalars": {
                name: [v for part in self.slices for v in part.scalars.get(name, ())] for name in first.scalars
            },
        }
        try:
            # Converted, not made: what could not be read back is told now.
            self.measured = msgspec.convert(found, MeasuredRun)
        except msgspec.ValidationError as error:
            raise MeasureError(f"global batch size {self.size}: its answers do not fit together: {error}") from None


def measure(
    side: Side,
    cases: Mapping[int, CaseSpec],  # by global batch size
    *,
    num_rounds: int,  # runs of each batch size
    num_steps: int,  # of each run, a multiple of `SLICE_STEPS`; of a command's, any number
    rng: np.random.Generator,  # decides the order of the slices
    on_slice: Callable[[], object] = lambda: None,  # called after each slice; a command is one
    on_round: Callable[[Session], object] = lambda session: None,  # called after each round with all so far
) -> Session:
    """Measure each batch size in `num_rounds` fresh processes.

    A round starts one process for each batch size and lets them step in turns: slice by slice, in random order, one at
    a time. So each batch size meets every phase of the machine's speed, and nothing else runs while one is timed.

    A signal ends it with the rounds so far, if there is one.

    Raises:
        MeasureError: no batch size could be measured, or the software changed between two runs.
        KeyboardInterrupt: a signal came in the first round.
    """
    is_whole = is_command(side.workload)
    if not is_whole and (num_steps < SLICE_STEPS or num_steps % SLICE_STEPS):
        raise ValueError(f"num_steps={num_steps}: a multiple of {SLICE_STEPS} is needed, the steps of a slice")
    runs: dict[int, list[_Run]] = {size: [] for size in cases}
    failures: dict[int, str] = {}
    session: Session | None = None
    for number in range(1, num_rounds + 1):
        todo = {size: case for size, case in cases.items() if size not in failures}
        try:
            if is_whole:
                known = {size: before[0].counted for size, before in runs.items() if before}
                done = _commands_round(side, todo, num_steps, rng, on_slice, known)
            else:
                done = _round(side, todo, num_steps, rng, on_slice)
        except KeyboardInterrupt:
            if not session:
                raise
            break
        for run in done:
            first = runs[run.size][0].measured if runs[run.size] else run.measured
            if run.measured and first and run.measured.at_steps != first.at_steps:
                run.failure = "its lines are of other steps than those of run 1; let every run log the same steps"
        failures |= {run.size: f"run {number}: {run.failure}" for run in done if run.failure}
        if len(failures) == len(cases):
            raise MeasureError("; ".join(f"global batch size {size}: {reason}" for size, reason in failures.items()))
        for run in (run for run in done if not run.failure):
            runs[run.size].append(run)
            before, found = ((one.counted.fingerprint, one.counted.python) for one in (runs[run.size][0], run))
            if found != before:
                raise MeasureError(
                    f"run {number} at {run.size}: found {found}, and {before} in run 1; "
                    "measure again, and change nothing on the machine meanwhile"
                )
        session = _session(side.workload, cases, runs, failures)
        on_round(session)
    assert session is not None
    return session


def _session(
    workload: str, cases: Mapping[int, CaseSpec], runs: Mapping[int, Sequence[_Run]], failures: Mapping[int, str]
) -> Session:
    counted = {size: runs[size][0].counted for size in cases if size not in failures}
    seed, first = next((cases[size].seed, counted[size]) for size in counted)
    assert first.fingerprint is not None
    return Session(
        workload=workload,
        device=str(first.facts["device"]),
        precision=str(first.facts["precision"]),
        seed=seed,
        fingerprint=first.fingerprint,
        python=first.python,
        measurements={
            size: Measurement(
                global_batch_size=size,
                micro_batch_size=int(of_case.facts["micro_batch_size"]),
                world_size=int(of_case.facts.get("world_size", 1)),
                runs=tuple(run.measured for run in runs[size] if run.measured),
            )
            for size, of_case in counted.items()
        },
        failures=dict(failures),
    )


def _round(
    side: Side, cases: Mapping[int, CaseSpec], num_steps: int, rng: np.random.Generator, on_slice: Callable[[], object]
) -> list[_Run]:
    with ExitStack() as stack:
        runs = [_Run(size) for size in cases]
        runners = {size: Runner(stack, side) for size in cases}

        def each(do: Callable[[_Run, Runner], object], some: Sequence[_Run] = runs) -> None:
            for run in some:
                if not run.failure:
                    try:
                        do(run, runners[run.size])
                    except MeasureError as error:
                        run.failure = str(error)

        def step(run: _Run, runner: Runner) -> None:
            runner.tell(SLICE_STEPS)
            run.slices.append(runner.stepped())

        each(lambda run, runner: runner.ready())
        each(lambda run, runner: runner.request(Request(do="run", case=cases[run.size])))
        each(lambda run, runner: runner.waiting())
        for _ in range(num_steps // SLICE_STEPS):
            for index in rng.permutation(len(runs)).tolist():
                each(step, [runs[index]])
                on_slice()
        each(lambda run, runner: runner.end_run())
        # Nothing is timed from here on: all count at once.
        each(lambda run, runner: runner.request(Request(do="count", case=cases[run.size])))
        each(lambda run, runner: run.end(runner.only_answer(Counted)))
    return runs


def _commands_round(
    side: Side,
    cases: Mapping[int, CaseSpec],
    num_steps: int,
    rng: np.random.Generator,
    on_slice: Callable[[], object],
    known: Mapping[int, Counted],  # what the first round found out
) -> list[_Run]:
    """Return a run of a command at each batch size, one whole run after the other, in random order."""
    runs = [_Run(size) for size in rng.permutation([*cases]).tolist()]
    for run in runs:
        try:
            run.slices.append(run_command(side, cases[run.size], num_steps))
            run.end(known.get(run.size) or asked_once(side, cases[run.size]))
        except MeasureError as error:
            run.failure = str(error)
        on_slice()
    return runs
