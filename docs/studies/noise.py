"""How much steps, pairs and starts spread: ``python -m docs.studies.noise FILE``; measures nothing.

FILE is of the same side twice: ``stepmark duet --baseline self --candidate self --json FILE``, or with ``--threshold
1e-9`` to spend the whole budget.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

from perf.records.baselines import KEY
from perf.report.sections import text_table

HEADER = ("size", "step ms", "steps", "pairs", "starts", "change", "standard error")


def main() -> None:
    """Print the table of a duet, and what a start and a pair take."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    duet = json.loads(parser.parse_args().file.read_text())[KEY]
    print(text_table(HEADER, [spreads(duet, size) for size in duet["judgements"]]))
    print("steps: standard deviation within a run; pairs: within a start; starts: beyond that of pairs")
    between = [b["ended_s"] - a["ended_s"] for a, b in pairwise(duet["pairs"]) if a["start"] == b["start"]]
    pair = f", a pair {np.median(between):.1f} s" if between else ""  # where no start has two, it is not known
    print(f"a start of both sides takes {duet['start_s']:.1f} s{pair}")


def spreads(duet: dict[str, Any], size: str) -> tuple[str, ...]:
    """Return the row of a batch size."""
    pairs = [pair for pair in duet["pairs"] if pair["global_batch_size"] == int(size)]
    steps = [np.diff(marks) for pair in pairs for marks in (*pair["baseline"], *pair["candidate"])]
    within = float(np.median([float(np.std(np.log(run))) for run in steps if len(run) > 1] or [np.nan]))
    starts = [[pair["effect"] for pair in some] for _, some in groupby(pairs, key=lambda pair: pair["start"])]
    whole = [start for start in starts if len(start) > 1]
    found = [f"{spread:.2%}" for spread in levels(whole)] if len(whole) > 1 else ["-", "-"]
    effect = duet["judgements"][size]["effect"]
    error = effect["standard_error"]
    step_ms = 1e3 * geometric_mean([float(np.median(run)) for run in steps])
    last = f"{effect['effect_size']:+.2%}", "-" if error is None else f"{error:.2%}"
    return size, f"{step_ms:,.0f}", f"{within:.2%}", *found, *last


def levels(starts: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the standard deviations between pairs of a start, and between starts beyond what their pairs explain.

    `starts` are logarithms of effects: at least two starts, with two pairs each. The results are the roots of the
    variance components of a one-way layout.
    """
    num_pairs = sum(map(len, starts))
    pair = sum(float(np.var(start)) * len(start) for start in starts) / max(1, num_pairs - len(starts))
    start = float(np.var([np.mean(start) for start in starts], ddof=1)) - pair * len(starts) / num_pairs
    return float(np.sqrt(pair)), float(np.sqrt(max(0.0, start)))


if __name__ == "__main__":
    main()
