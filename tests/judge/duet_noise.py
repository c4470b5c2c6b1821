"""Duets without processes: synthetic starts with pairs, recorded starts drawn anew, and the verdicts on either."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from perf.judge.duets import Decisions, DuetJudgement
from perf.records.sessions import Pair, pairs_per_start

DOCS = Path(__file__).parents[2] / "docs"
RECORDED = {"AMD EPYC, Zen 3": DOCS / "duets.jsonl.gz", "AMD EPYC, Zen 5": DOCS / "duets-aa-zen5.jsonl.gz"}
"""Recorded trials, by the processor."""

START_S, PAIR_S = 2.0, 1.2
"""What a start and a pair cost, seconds, about as measured."""

PAIR_SD = 0.012
"""Spread of the pairs of a start; one pair in twenty is four times as far off."""

Draw = Callable[[int], list[float]]
"""Returns the effects of the pairs of a new start, given how many are wanted."""


def synthetic(rng: np.random.Generator, *, start_sd: float, effect: float = 0.0) -> Draw:
    """Return a source of starts whose means spread by `start_sd`; all are logarithms."""

    def draw(number: int) -> list[float]:
        scale = PAIR_SD * np.where(rng.random(number) < 0.05, 4.0, 1.0)
        return [float(value) for value in effect + start_sd * rng.normal() + scale * rng.normal(size=number)]

    return draw


def recorded_starts(path: Path) -> list[list[float]]:
    """Return the pairs of each start of the A/A trials in a file: effects of two sides at once."""
    with gzip.open(path, "rt") as lines:
        trials = [json.loads(line) for line in lines]
    starts: dict[tuple[int, int], list[float]] = defaultdict(list)
    for number, trial in enumerate(trials):
        if trial["percent"] == 0 and trial["mode"] == "simultaneous":
            for pair in trial["pairs"]:
                starts[number, pair["start"]].append(pair["effect"])
    return list(starts.values())


def resampled(rng: np.random.Generator, starts: list[list[float]], *, whole: bool, effect: float = 0.0) -> Draw:
    """Return a source of recorded starts, their sides swapped at random: what favoured a side then is no effect.

    Args:
        rng: draws starts, sides, and which neighbouring pairs.
        starts: as recorded.
        whole: with all their pairs; else with as many neighbouring ones as are wanted.
        effect: added to all.
    """

    def draw(number: int) -> list[float]:
        pairs = starts[int(rng.integers(len(starts)))]
        if not whole:
            first = int(rng.integers(max(1, len(pairs) - number + 1)))
            pairs = pairs[first : first + number]
        sign = 1 if rng.integers(2) else -1
        return [sign * pair + effect for pair in pairs]

    return draw


def duet(draws: dict[int, Draw], *, budget_s: float, threshold: float = 0.02) -> dict[int, DuetJudgement]:
    """Return the verdicts of a duet of `budget_s` seconds for each batch size whose starts come from `draws`."""
    total_s, now_s = budget_s * len(draws), 0.0
    decisions = Decisions(list(draws), threshold=threshold, budget_s=total_s)
    number = pairs_per_start(start_s=START_S, round_s=PAIR_S * len(draws), budget_s=total_s)
    while sizes := decisions.undecided:
        effects = {size: draws[size](number) for size in sizes}
        now_s += START_S + PAIR_S * sum(map(len, effects.values()))
        decisions.add(
            [
                Pair(global_batch_size=size, start=0, ended_s=now_s, effect=effect, baseline=(), candidate=())
                for size, found in effects.items()
                for effect in found
            ],
            ended_s=now_s,
        )
    return decisions.judgements
