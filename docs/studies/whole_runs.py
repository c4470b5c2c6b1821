"""How often duets of commands err, and what they find: whole runs in turns, on synthetic noise like the measured one.

Run with ``python docs/studies/whole_runs.py`` at the root of the repository. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path

import numpy as np

from perf.judge.verdicts import Verdict
from perf.report.sections import markdown_table

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests' helpers are no part of the package
from tests.judge.noise import PHASES
from tests.judge.whole_runs import duet


def main() -> None:
    """Print a table: a row for each way in which the speed moves, length of a run, and number of runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duets", type=int, default=2000, help="of each kind")
    arguments = parser.parse_args()
    rng, rows = np.random.default_rng(20261125), []
    for phases, run_s, num_runs in product(PHASES, (5.0, 20.0), (16, 32, 64)):

        def share(*verdicts: Verdict, slower: float = 0.0) -> str:
            shown = {"run_s": run_s, "num_runs": num_runs, "phases": phases}  # noqa: B023  # called in the same turn
            effect = float(np.log1p(-slower))
            found = [duet(rng, effect=effect, **shown).verdict for _ in range(arguments.duets)]
            return f"{np.mean([verdict in verdicts for verdict in found]):.1%}"

        same = share(Verdict.REGRESSED, Verdict.IMPROVED)
        slow = [share(Verdict.REGRESSED, slower=slower) for slower in (0.05, 0.1)]
        rows.append((phases, f"{run_s:g} s", str(num_runs), same, *slow))
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    header = ("speed", "a run", "runs", "A/A: found anything", "5 % slower: REGRESSED", "10 % slower: REGRESSED")
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
