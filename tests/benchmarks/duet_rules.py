"""What the rules people use would have said of recorded trials: false alarms and detections, side by side.

Run with ``python -m tests.benchmarks.duet_rules FILE`` on what ``python -m tests.benchmarks.duets`` recorded; with
``--plot FILE`` it also draws detection against budget (needs matplotlib). Nothing is measured here.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from perf.judge.sequential import decide_pairs
from perf.judge.stats import FloatArray, hodges_lehmann
from perf.judge.verdicts import Verdict
from perf.measure.duet import Mode
from perf.measure.pairs import Pair
from perf.report.markdown import markdown_table

Trial = dict[str, Any]
Rule = Callable[[FloatArray, FloatArray], str]
SLOWER, FASTER, SAME = "slower", "faster", ""


def main() -> None:
    """Print the tables of docs/measurements.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="JSON lines, or the same in gzip")
    parser.add_argument("--plot", type=Path, help="draw detection against budget into this file")
    arguments = parser.parse_args()
    opened = gzip.open if arguments.file.suffix == ".gz" else open
    with opened(arguments.file, "rt") as lines:
        trials = [json.loads(line) for line in lines]
    for mode in Mode:
        chosen = [trial for trial in trials if trial["mode"] == mode]
        if chosen:
            print(f"\n{mode}: what was planted, what was found\n\n{doses(chosen)}")
            print(f"\n{mode}: verdicts by budget\n\n{verdicts(chosen)}")
    at_once = [trial for trial in trials if trial["mode"] == Mode.SIMULTANEOUS]
    print(f"\nthe rules people use, on the same step times\n\n{rules(at_once)}")
    if arguments.plot:
        plot(at_once, arguments.plot)


def doses(trials: Sequence[Trial]) -> str:
    """Return what each dose did to the rate: all pairs of all trials together, and the spread of single trials."""
    rows = []
    for percent, chosen in by_percent(trials).items():
        whole = [pair["effect"] for trial in chosen for pair in trial["pairs"]]
        each = [100 * np.expm1(hodges_lehmann([pair["effect"] for pair in trial["pairs"]])) for trial in chosen]
        spread = 148.26 * np.median(np.abs(np.array(whole) - np.median(whole)))
        rows.append(
            (
                f"{percent:g} %",
                f"{len(chosen)}",
                f"{chosen[0]['budget_s']:g} s",
                f"{len(whole) / len(chosen):.0f}",
                f"{100 * np.expm1(hodges_lehmann(whole)):+.2f} %",
                f"{np.std(each, ddof=1):.2f} %" if len(each) > 1 else "-",
                f"{spread:.1f} %",
            )
        )
    header = (
        "a step takes longer by",
        "trials",
        "of",
        "pairs each",
        "change of the rate, all trials",
        "between trials",
        "between pairs",
    )
    return markdown_table(header, rows)


def verdicts(trials: Sequence[Trial]) -> str:
    """Return the verdicts that duets of smaller budgets, cut from the front of each trial, would have ended with."""
    header = (
        "a step takes longer by",
        "threshold",
        "budget",
        "REGRESSED",
        "IMPROVED",
        "UNCHANGED",
        "INCONCLUSIVE",
        "REGRESSED, exact 95 % interval",
    )
    rows = []
    for percent, chosen in by_percent(trials).items():
        for threshold in (0.01, 0.02):
            for share in (0.5, 1.0):
                budget_s = share * chosen[0]["budget_s"]
                found = [verdict(trial, threshold=threshold, budget_s=budget_s) for trial in chosen]
                counts = [
                    found.count(kind)
                    for kind in (Verdict.REGRESSED, Verdict.IMPROVED, Verdict.UNCHANGED, Verdict.INCONCLUSIVE)
                ]
                low, high = exact_interval(counts[0], len(found))
                rows.append(
                    (
                        f"{percent:g} %",
                        f"{threshold:.0%}",
                        f"{budget_s:g} s",
                        *map(str, counts),
                        f"{low:.1%} to {high:.1%} of {len(found)}",
                    )
                )
    return markdown_table(header, rows)


def verdict(trial: Trial, *, threshold: float, budget_s: float) -> Verdict:
    """Return what a duet of `budget_s` would have said, looks on the way included."""
    size = trial["global_batch_size"]
    pairs = [
        Pair(
            global_batch_size=size,
            start=pair["start"],
            ended_s=pair["ended_s"],
            effect=pair["effect"],
            baseline=(),
            candidate=(),
        )
        for pair in trial["pairs"]
    ]
    # The pair that would have been the last began before the budget was spent.
    wanted = {size}
    found = decide_pairs(pairs, [size], threshold=threshold, budget_s=budget_s, wanted=wanted)
    return found[size].verdict if size in found else Verdict.INCONCLUSIVE


def exact_interval(count: int, number: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion (Clopper and Pearson 1934)."""
    found = stats.binomtest(count, number).proportion_ci(method="exact")
    return float(found.low), float(found.high)


def rules(trials: Sequence[Trial]) -> str:
    """Return how often each rule says slower (and faster): both sides of one trial, and sides of trials in a row."""
    header = ["rule", "times are of"]
    doses_ = by_percent(trials)
    header += [f"{percent:g} %, {len(chosen)} trials" for percent, chosen in doses_.items()]
    rows = []
    for name, rule in RULES.items():
        for where in ("the same minute", "another minute"):
            cells = []
            for chosen in doses_.values():
                found = [rule(*sides(trials, trial, together=where == "the same minute")) for trial in chosen]
                faster = f" (+{found.count(FASTER)} faster)" if FASTER in found else ""
                cells.append(f"{found.count(SLOWER)} slower{faster}")
            rows.append((name, where, *cells))
    found_by_duet = []
    for chosen in doses_.values():
        found = [verdict(trial, threshold=0.02, budget_s=trial["budget_s"]) for trial in chosen]
        faster = f" (+{found.count(Verdict.IMPROVED)} faster)" if Verdict.IMPROVED in found else ""
        found_by_duet.append(f"{found.count(Verdict.REGRESSED)} slower{faster}")
    rows.append(("duet, threshold 2 %", "the same minute", *found_by_duet))
    return markdown_table(header, rows)


def sides(trials: Sequence[Trial], trial: Trial, *, together: bool) -> tuple[FloatArray, FloatArray]:
    """Return step times of a baseline and of the trial's candidate: of the same trial, or of the one measured before it."""
    index = next(i for i, other in enumerate(trials) if other is trial)
    before = trial if together else trials[index - 1]
    baseline = [step for pair in before["pairs"] for step in pair["baseline_step_s"]]
    return np.array(baseline), np.array([step for pair in trial["pairs"] for step in pair["candidate_step_s"]])


def by_percent(trials: Sequence[Trial]) -> dict[float, list[Trial]]:
    """Return the trials of each dose."""
    percents = sorted({trial["percent"] for trial in trials})
    return {percent: [trial for trial in trials if trial["percent"] == percent] for percent in percents}


def _mean_5(baseline: FloatArray, candidate: FloatArray) -> str:
    """pytest-benchmark's ``--benchmark-compare-fail=mean:5%``, which looks for slower only."""
    return SLOWER if candidate.mean() > 1.05 * baseline.mean() else SAME


def _median_5(baseline: FloatArray, candidate: FloatArray) -> str:
    return SLOWER if np.median(candidate) > 1.05 * np.median(baseline) else SAME


def _mann_whitney(baseline: FloatArray, candidate: FloatArray) -> str:
    """The test of benchstat and of many scripts, at 0.05."""
    if stats.mannwhitneyu(candidate, baseline).pvalue >= 0.05:
        return SAME
    return SLOWER if np.median(candidate) > np.median(baseline) else FASTER


def _criterion(baseline: FloatArray, candidate: FloatArray) -> str:
    """Criterion's rule: a t-test at 0.05 and a bootstrap interval of the mean's change wholly beyond 1 %."""
    if stats.ttest_ind(candidate, baseline, equal_var=False).pvalue >= 0.05:
        return SAME
    rng = np.random.default_rng(0)
    means = [side[rng.integers(len(side), size=(1000, len(side)))].mean(axis=1) for side in (baseline, candidate)]
    low, high = np.quantile(means[1] / means[0] - 1, (0.025, 0.975))
    return SLOWER if low > 0.01 else FASTER if high < -0.01 else SAME


RULES: dict[str, Rule] = {
    "pytest-benchmark, mean:5%": _mean_5,
    "pytest-benchmark, median:5%": _median_5,
    "Mann-Whitney, 0.05": _mann_whitney,
    "criterion, 1 % of noise": _criterion,
}


def plot(trials: Sequence[Trial], path: Path) -> None:
    """Draw how often each dose is called REGRESSED, against the budget."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for percent, chosen in by_percent(trials).items():
        whole = chosen[0]["budget_s"]
        budgets = np.arange(8, whole + 1, 2)
        share = [
            np.mean([verdict(t, threshold=0.01, budget_s=b) is Verdict.REGRESSED for t in chosen]) for b in budgets
        ]
        (line,) = axes.plot(budgets, share, label=f"{percent:g} % ({len(chosen)} trials)")
        low, high = exact_interval(round(share[-1] * len(chosen)), len(chosen))
        axes.errorbar([whole], [share[-1]], [[share[-1] - low], [high - share[-1]]], color=line.get_color(), capsize=3)
    axes.set(
        xlabel="budget, s (global batch size 512)",
        ylabel="called REGRESSED",
        ylim=(-0.03, 1.03),
        title="Slowdowns found side by side (threshold 1 %); bars: exact 95 % intervals",
    )
    figure.legend(title="a step takes longer by", loc="outside right upper")
    axes.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
