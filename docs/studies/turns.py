"""What duets of version 0.1 and of today show in the same time: ``python docs/studies/turns.py``; measures nothing.

Each line of docs/duets-turns.jsonl.gz has the pairs of an A/A duet of one minute at 512, of either version in turns:
``calibrate --global-batch-size 512 --budget 60s``, which both had: the working tree beside itself, to the end of the
budget. Both are judged by today's inference, which rests on starts.
"""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

from perf.judge.duets import LAST_SHARE
from perf.judge.stats import FAMILY_ERROR, DuetEffect, estimate
from perf.report.sections import markdown_table

FILE = Path(__file__).parents[1] / "duets-turns.jsonl.gz"
HEADER = ("version", "pairs", "starts", "standard error", "detectable in 60 s", "in 30 s")


def main() -> None:
    """Print a row for each duet."""
    with gzip.open(FILE, "rt") as lines:
        duets = [json.loads(line) for line in lines]
    rows = []
    for duet in sorted(duets, key=lambda duet: duet["version"]):
        minute, half = (effect_after(duet["pairs"], seconds) for seconds in (60.0, 30.0))
        counts = str(minute.num_runs), str(minute.num_starts), f"{minute.standard_error:.2%}"
        rows.append((duet["version"], *counts, detectable(minute), detectable(half)))
    print(markdown_table(HEADER, rows))


def effect_after(pairs: list[dict[str, float]], seconds: float) -> DuetEffect:
    """Return the effect of the pairs until a time, give or take two seconds."""
    early = [pair for pair in pairs if pair["ended_s"] <= seconds + 2]
    starts = [[pair["effect"] for pair in some] for _, some in itertools.groupby(early, key=lambda pair: pair["start"])]
    return estimate(starts, level=FAMILY_ERROR * LAST_SHARE, elapsed_s=seconds)


def detectable(effect: DuetEffect) -> str:
    """Return the minimal detectable effect, if there is one."""
    shown = effect.minimal_detectable_effect
    return f"{shown:.1%}" if shown < 1 else f"- ({effect.num_starts} starts)"


if __name__ == "__main__":
    main()
