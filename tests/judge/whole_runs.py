"""Duets of commands without commands: whole runs in turns on a machine whose speed moves as measured."""

from __future__ import annotations

import numpy as np

from perf.judge.duets import Decisions, DuetJudgement
from perf.measure.duet import RUNS_PER_PAIR
from perf.records.sessions import Pair, alternating_effect
from tests.judge.noise import _speed

CHUNK_S = 0.25
"""How finely a run's speed is followed, seconds of the machine at its best."""

PROCESS_SD = 0.025
"""Spread of the speed of processes that are equal otherwise."""


def duet(
    rng: np.random.Generator,
    *,
    run_s: float,
    num_runs: int,
    phases: str,
    effect: float = 0.0,
    threshold: float = 0.02,
) -> DuetJudgement:
    """Return the verdict of a duet at one batch size.

    Args:
        rng: all that is random.
        run_s: what a run takes on the machine at its best; a fifth of it more is its start, which is not timed.
        num_runs: whole runs of both sides that fit into the budget, about.
        phases: how the speed of the machine moves, as in `tests.judge.noise`.
        effect: logarithm of the candidate's rate over the baseline's.
        threshold: the smallest change that matters.
    """
    chunks, start_chunks = round(run_s / CHUNK_S), round(0.2 * run_s / CHUNK_S)
    # Enough for every run at the machine's slowest; what is drawn beyond the end is not used.
    slower = np.exp(_speed(rng, CHUNK_S * np.arange(4 * (num_runs + 8) * (chunks + start_chunks)), 1e4, phases))
    begin, now_s = 0, 0.0
    budget_s = num_runs * 1.2 * run_s * float(slower.mean())
    decisions = Decisions([512], threshold=threshold, budget_s=budget_s)
    while decisions.undecided:
        marks: tuple[list[tuple[float, float]], list[tuple[float, float]]] = [], []
        first = int(rng.integers(2))
        for side in (first, 1 - first, 1 - first, first):
            begin += start_chunks
            own = np.exp(rng.normal(scale=PROCESS_SD) - side * effect)
            took_s = CHUNK_S * own * float(slower[begin : begin + chunks].sum())
            now_s += CHUNK_S * float(slower[begin - start_chunks : begin].sum()) + took_s
            marks[side].append((now_s - took_s, now_s))
            begin += chunks
        found = alternating_effect(*marks)
        pair = Pair(
            global_batch_size=512,
            start=0,
            ended_s=now_s,
            effect=found,
            baseline=tuple(marks[0]),
            candidate=tuple(marks[1]),
        )
        decisions.add([pair], ended_s=now_s)
    assert len(marks[0]) + len(marks[1]) == RUNS_PER_PAIR
    return decisions.judgements[512]
