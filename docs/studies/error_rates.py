"""How often duets err: verdicts on thousands of duets whose truth is known, made of recorded and of synthetic starts.

Run with ``python docs/studies/error_rates.py`` at the root of the repository; it takes about 25 minutes of one core
for 10,000 duets of each kind. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from perf.judge.verdicts import Verdict
from perf.records.sessions import FEWEST_STARTS
from perf.report.sections import markdown_table

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests' helpers are no part of the package
from tests.judge.duet_noise import DOCS, RECORDED, Draw, duet, recorded_starts, resampled, synthetic

SLOWDOWN = float(np.log(0.98))
TINY = 1e-4
"""A threshold so small that UNCHANGED is practically never the verdict."""

Source = Callable[[float], Draw]
"""Returns where starts come from, given the effect that is planted in them."""


def main() -> None:
    """Print a table: a row for each source of starts and each budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duets", type=int, default=10_000, help="of each kind")
    parser.add_argument("--only", default="", metavar="TEXT", help="sources whose name holds this")
    parser.add_argument("--budget", type=float, nargs="+", default=[20, 30, 60, 120], help="seconds")
    arguments = parser.parse_args()
    rng = np.random.default_rng(20261124)
    rows = []
    for name, source in sources(rng).items():
        if arguments.only not in name:
            continue
        for budget_s in arguments.budget:
            rows.append((name, f"{budget_s:g} s", *row(source, budget_s, arguments.duets)))
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    header = (
        "starts",
        "budget",
        "A/A: found anything, threshold 2 %",
        "the same, no threshold",
        "95 % interval holds the truth",
        "2 % slower: REGRESSED",
        "UNCHANGED",
        "detectable (median)",
        "that is found in",
    )
    print(markdown_table(header, rows))


def sources(rng: np.random.Generator) -> dict[str, Source]:
    """Return the recorded machines, with whole starts and with as many pairs as a start has now, and synthetic ones."""
    found: dict[str, Source] = {}
    for name, path in {**RECORDED, "Intel Xeon": DOCS / "duets-xeon.jsonl.gz"}.items():
        starts = recorded_starts(path)
        found[f"{name}, whole"] = lambda effect, starts=starts: resampled(rng, starts, whole=True, effect=effect)
        found[name] = lambda effect, starts=starts: resampled(rng, starts, whole=False, effect=effect)
    for sd in (0.0, 0.004, 0.007, 0.012):
        found[f"synthetic, {sd:.1%}"] = lambda effect, sd=sd: synthetic(rng, start_sd=sd, effect=effect)
    return found


def row(source: Source, budget_s: float, num_duets: int) -> list[str]:
    """Return the cells of one source at one budget."""

    def judged(effect: float, threshold: float) -> list:
        draws = {512: source(effect)}
        return [duet(draws, budget_s=budget_s, threshold=threshold)[512] for _ in range(num_duets)]

    def found(judgements: list, *verdicts: Verdict) -> str:
        return f"{np.mean([judgement.verdict in verdicts for judgement in judgements]):.2%}"

    changed = (Verdict.REGRESSED, Verdict.IMPROVED)
    same, unhelped, slower = judged(0.0, 0.02), judged(0.0, TINY), judged(SLOWDOWN, 0.02)
    effects = [judgement.effect for judgement in unhelped if judgement.effect.num_starts >= FEWEST_STARTS]
    covered = [effect.low <= 0 <= effect.high for effect in effects]
    shown = float(np.median([judgement.effect.minimal_detectable_effect for judgement in unhelped]))
    power = found(judged(float(np.log1p(-shown)), TINY), Verdict.REGRESSED) if shown < 1 else "-"
    return [
        found(same, *changed),
        found(unhelped, *changed),
        f"{np.mean(covered):.1%}" if covered else "-",
        found(slower, Verdict.REGRESSED),
        found(slower, Verdict.UNCHANGED),
        f"{shown:.1%}" if shown < 1 else "-",
        power,
    ]


if __name__ == "__main__":
    main()
