"""Runs in fresh processes, several batch sizes in turns: rounds, slices in random order, one process at work at a time."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import perf
from perf.errors import MeasureError
from perf.measure.processes import Answer, Process, started
from perf.records.counters import StepCounters
from perf.records.fingerprint import Fingerprint
from perf.records.sessions import MeasuredRun, Measurement, Session, find_warmup
from perf.train.workloads import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """What a worker is to run.

    Attributes:
        workload, global_batch_size, seed: what to train.
        device, precision: as on the command line; "auto" lets the worker choose.
        num_steps: steps of a run, a multiple of `slice_steps`.
        slice_steps: steps between two pauses, in which the other batch sizes have their turns; also a log window.
    """

    workload: Workload
    global_batch_size: int
    device: str
    precision: str
    seed: int
    num_steps: int
    slice_steps: int

    def __post_init__(self) -> None:
        if self.slice_steps < 1 or self.num_steps < 4 or self.num_steps % self.slice_steps:
            raise ValueError(
                f"num_steps={self.num_steps} in slices of {self.slice_steps}: at least 4 steps in whole slices are needed"
            )

    def as_json(self) -> dict[str, Any]:
        """Return the spec as JSON data, the workload field by field."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunSpec:
        """Return the spec that `as_json` described."""
        return cls(**{**data, "workload": Workload.from_json(data["workload"])})


def measure(
    specs: Sequence[RunSpec],
    *,
    num_rounds: int,
    rng: np.random.Generator,
    environ: Mapping[str, str],
    on_slice: Callable[[], object] = lambda: None,
    on_round: Callable[[Mapping[int, MeasuredRun]], object] = lambda runs: None,
) -> Session:
    """Measure each batch size in `num_rounds` fresh processes.

    A round starts one process for each spec and lets them step in turns: slice by slice, in random order, one at a
    time. So each batch size sees every phase of the machine's speed, and nothing else runs while one is timed.

    Args:
        specs: one for each batch size, alike otherwise.
        num_rounds: runs of each batch size.
        rng: decides the order of the slices.
        environ: the environment of the processes.
        on_slice: called after each slice.
        on_round: called after each round with its runs, by batch size.

    Raises:
        MeasureError: no batch size could be measured, or the software changed between two runs.
    """
    runs: dict[int, list[MeasuredRun]] = {spec.global_batch_size: [] for spec in specs}
    failures: dict[int, str] = {}
    described: dict[int, dict[str, Any]] = {}
    for number in range(1, num_rounds + 1):
        todo = [spec for spec in specs if spec.global_batch_size not in failures]
        done, failed, said = _round(todo, rng, environ, on_slice)
        failures |= {size: f"run {number}: {reason}" for size, reason in failed.items()}
        if len(failures) == len(specs):
            raise MeasureError("; ".join(f"global batch size {size}: {reason}" for size, reason in failures.items()))
        for size, run in done.items():
            runs[size].append(run)
            if described.setdefault(size, said[size]) != said[size]:
                raise MeasureError(
                    f"run {number} at {size}: found {said[size]}, and {described[size]} in run 1; "
                    "measure again on a machine that nobody changes meanwhile"
                )
        on_round(done)
    return _session(specs[0], runs, failures, described)


def _session(
    spec: RunSpec, runs: dict[int, list[MeasuredRun]], failures: dict[int, str], described: dict[int, dict[str, Any]]
) -> Session:
    common = next(iter(described.values()))
    return Session(
        workload=spec.workload.name,
        device=common["device"],
        precision=common["precision"],
        seed=spec.seed,
        fingerprint=Fingerprint(**common["fingerprint"]),
        python=common["python"],
        measurements={
            size: Measurement(
                global_batch_size=size, micro_batch_size=described[size]["micro_batch_size"], runs=tuple(done)
            )
            for size, done in runs.items()
            if size not in failures
        },
        failures=failures,
    )


def _round(
    specs: Sequence[RunSpec], rng: np.random.Generator, environ: Mapping[str, str], on_slice: Callable[[], object]
) -> tuple[dict[int, MeasuredRun], dict[int, str], dict[int, Answer]]:
    """Return what was measured, what failed and what the workers said of themselves, each by batch size."""
    failed: dict[int, str] = {}
    with ExitStack() as stack:
        workers = {spec.global_batch_size: started_worker(stack, spec.as_json(), environ) for spec in specs}

        def ask(what: Callable[[Process], Answer], sizes: Sequence[int]) -> dict[int, Answer]:
            answers = {}
            for size in sizes:
                if size not in failed:
                    try:
                        answers[size] = what(workers[size])
                    except MeasureError as error:
                        failed[size] = str(error)
            return answers

        sizes = list(workers)
        described = ask(lambda worker: worker.answer("described"), sizes)
        ask(lambda worker: worker.answer("waiting"), sizes)
        step_s: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(specs[0].num_steps // specs[0].slice_steps):
            for size in rng.permutation(sizes).tolist():
                for answer in ask(lambda worker: worker.tell().answer("waiting"), [size]).values():
                    step_s[size] += answer["step_s"]
                on_slice()
        trained = ask(lambda worker: worker.tell().answer("trained"), sizes)
        # Nothing is timed from here on: all count at once.
        for worker in workers.values():
            worker.tell()
        counted = ask(lambda worker: worker.answer("counted"), sizes)
    runs = {
        size: MeasuredRun(
            step_s=tuple(step_s[size]),
            warmup_steps=find_warmup(step_s[size]),
            losses=tuple(trained[size]["losses"]),
            lines=tuple(trained[size]["lines"]),
            counters=StepCounters(**counted[size]["counters"]),
        )
        for size in counted
    }
    return runs, failed, {size: {k: v for k, v in described[size].items() if k != "event"} for size in counted}


def started_worker(stack: ExitStack, spec: Mapping[str, Any], environ: Mapping[str, str]) -> Process:
    """Start a process that runs one spec, steps only when told to, and ends with `stack`."""
    root = str(Path(perf.__file__).parents[1])  # the worker imports the same package as this process
    path = os.pathsep.join(filter(None, [root, environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "perf.runner.worker", json.dumps(spec)]
    return started(stack, command, environ={**environ, "PYTHONPATH": path})
