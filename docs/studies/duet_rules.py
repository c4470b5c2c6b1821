"""What duets, version 0.1 and the rules people use say of recorded trials: false alarms and detections, side by side.

Run with ``python docs/studies/duet_rules.py FILE`` on what ``docs/studies/duets.py`` recorded; with ``--plot FILE``
it also draws detection against budget (needs matplotlib). Nothing is measured here.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import signed_ranks  # beside this file, as the next one
from noise import levels
from scipy import stats

from perf.judge.duets import Decisions, DuetJudgement
from perf.judge.stats import FloatArray
from perf.judge.verdicts import Verdict
from perf.records.sessions import Mode, Pair
from perf.report.sections import markdown_table

Trial = dict[str, Any]
Rule = Callable[[FloatArray, FloatArray], str]
SLOWER, FASTER, SAME = "slower", "faster", ""


def main() -> None:
    """Print the tables of docs/measurements.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="JSON lines, or the same in gzip")
    parser.add_argument("--plot", type=Path, help="draw detection against budget into this file")
    parser.add_argument("--threshold", type=float, nargs="+", default=[0.01, 0.02], help="fractions")
    arguments = parser.parse_args()
    opened = gzip.open if arguments.file.suffix == ".gz" else open
    with opened(arguments.file, "rt") as lines:
        trials = [json.loads(line) for line in lines]
    for mode in Mode:
        chosen = [trial for trial in trials if trial["mode"] == mode]
        if chosen:
            print(f"\n{mode}: what was planted, what was found\n\n{doses(chosen)}")
            print(f"\n{mode}: verdicts by budget\n\n{verdicts(chosen, arguments.threshold)}")
    at_once = [trial for trial in trials if trial["mode"] == Mode.SIMULTANEOUS]
    print(f"\nthe rules people use, on the same step times\n\n{rules(at_once)}")
    if arguments.plot:
        plot(at_once, arguments.plot)


def doses(trials: Sequence[Trial]) -> str:
    """Return what each dose did to the rate, and how much pairs of a start, starts and trials spread."""
    rows = []
    for dose, chosen in by_dose(trials).items():
        starts = [start for trial in chosen for start in by_start(trial)]
        means = [float(np.mean([pair["effect"] for pair in trial["pairs"]])) for trial in chosen]
        pair, start_sd = levels([start for start in starts if len(start) > 1])
        error = np.std(means, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
        rows.append(
            (
                dose,
                f"{len(chosen)}",
                f"{chosen[0]['budget_s']:g} s",
                f"{len(starts) / len(chosen):.1f}",
                f"{sum(map(len, starts)) / len(starts):.1f}",
                f"{100 * np.expm1(np.mean(means)):+.2f} % ({100 * error:.2f})",
                f"{100 * np.std(means, ddof=1):.2f} %" if len(means) > 1 else "-",
                f"{100 * start_sd:.2f} %",
                f"{100 * pair:.2f} %",
            )
        )
    header = (
        "a step takes longer by",
        "trials",
        "of",
        "starts each",
        "pairs a start",
        "change of the rate (standard error)",
        "spread of trials",
        "of starts",
        "of pairs in a start",
    )
    return markdown_table(header, rows)


def by_start(trial: Trial) -> list[list[float]]:
    """Return the effects of a trial's pairs, start by start."""
    starts: dict[int, list[float]] = {}
    for pair in trial["pairs"]:
        starts.setdefault(pair["start"], []).append(pair["effect"])
    return list(starts.values())


def verdicts(trials: Sequence[Trial], thresholds: Sequence[float]) -> str:
    """Return what duets of smaller budgets, cut from the front of each trial, would have said; and version 0.1."""
    header = (
        "a step takes longer by",
        "threshold",
        "budget",
        "rules",
        "REGRESSED",
        "IMPROVED",
        "UNCHANGED",
        "INCONCLUSIVE",
        "detectable (median)",
        "REGRESSED, exact 95 % interval",
    )
    rows = []
    for dose, chosen in by_dose(trials).items():
        for threshold, share, rule in itertools.product(thresholds, (0.5, 1.0), (verdict, old_verdict)):
            budget_s = share * chosen[0]["budget_s"]
            found = [rule(trial, threshold=threshold, budget_s=budget_s) for trial in chosen]
            effects = [judged(trial, threshold=threshold, budget_s=budget_s).effect for trial in chosen]
            shown = float(np.median([effect.minimal_detectable_effect for effect in effects]))
            kinds = (Verdict.REGRESSED, Verdict.IMPROVED, Verdict.UNCHANGED, Verdict.INCONCLUSIVE)
            counts = [found.count(kind) for kind in kinds]
            low, high = exact_interval(counts[0], len(found))
            rows.append(
                (
                    dose,
                    f"{100 * threshold:g} %",
                    f"{budget_s:g} s",
                    "now" if rule is verdict else "0.1",
                    *map(str, counts),
                    f"{shown:.1%}" if rule is verdict and shown < 1 else "-",
                    f"{low:.1%} to {high:.1%} of {len(found)}",
                )
            )
    return markdown_table(header, rows)


def verdict(trial: Trial, *, threshold: float, budget_s: float) -> Verdict:
    """Return what a duet of `budget_s` would have said."""
    return judged(trial, threshold=threshold, budget_s=budget_s).verdict


def judged(trial: Trial, *, threshold: float, budget_s: float) -> DuetJudgement:
    """Return the judgement of a duet of `budget_s`, with the starts that it would have had time for."""
    size = trial["global_batch_size"]
    decisions = Decisions([size], threshold=threshold, budget_s=budget_s)
    for _, group in itertools.groupby(trial["pairs"], key=lambda pair: pair["start"]):
        pairs = list(group)
        if not decisions.undecided:
            break
        decisions.add(
            [
                Pair(
                    global_batch_size=size,
                    start=pair["start"],
                    ended_s=pair["ended_s"],
                    effect=pair["effect"],
                    baseline=(),
                    candidate=(),
                )
                for pair in pairs
            ],
            ended_s=pairs[-1]["ended_s"],
        )
    return decisions.judgements[size]


def old_verdict(trial: Trial, *, threshold: float, budget_s: float) -> Verdict:
    """Return what version 0.1 would have said of the same pairs."""
    ended_s, effects = ([pair[name] for pair in trial["pairs"]] for name in ("ended_s", "effect"))
    return signed_ranks.verdict(ended_s, effects, threshold=threshold, budget_s=budget_s)


def exact_interval(count: int, number: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion (Clopper and Pearson 1934)."""
    found = stats.binomtest(count, number).proportion_ci(method="exact")
    return float(found.low), float(found.high)


def rules(trials: Sequence[Trial]) -> str:
    """Return how often each rule says slower (and faster): both sides of one trial, and sides of trials in a row."""
    header = ["rule", "times are of"]
    doses_ = by_dose(trials)
    header += [f"{dose}, {len(chosen)} trials" for dose, chosen in doses_.items()]
    rows = []
    for name, rule in RULES.items():
        for where in ("the same minute", "another minute"):
            cells = []
            for chosen in doses_.values():
                found = [rule(*sides(trials, trial, together=where == "the same minute")) for trial in chosen]
                faster = f" (+{found.count(FASTER)} faster)" if FASTER in found else ""
                cells.append(f"{found.count(SLOWER)} slower{faster}")
            rows.append((name, where, *cells))
    for name, rule in (("duet, threshold 2 %", verdict), ("duet of version 0.1", old_verdict)):
        cells = []
        for chosen in doses_.values():
            verdicts_ = [rule(trial, threshold=0.02, budget_s=trial["budget_s"]) for trial in chosen]
            faster = f" (+{verdicts_.count(Verdict.IMPROVED)} faster)" if Verdict.IMPROVED in verdicts_ else ""
            cells.append(f"{verdicts_.count(Verdict.REGRESSED)} slower{faster}")
        rows.append((name, "the same minute", *cells))
    return markdown_table(header, rows)


def sides(trials: Sequence[Trial], trial: Trial, *, together: bool) -> tuple[FloatArray, FloatArray]:
    """Return step times of a baseline and of the trial's candidate: of the same trial, or the one before it."""
    alike = [other for other in trials if other["global_batch_size"] == trial["global_batch_size"]]
    index = next(i for i, other in enumerate(alike) if other is trial)
    before = trial if together else alike[index - 1]
    baseline = [step for pair in before["pairs"] for step in pair["baseline_step_s"]]
    return np.array(baseline), np.array([step for pair in trial["pairs"] for step in pair["candidate_step_s"]])


def by_dose(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Return the trials of each dose, where there are several batch sizes at each of them, and of each budget."""
    several = len({trial["global_batch_size"] for trial in trials}) > 1
    found: dict[tuple[float, int, float], list[Trial]] = {}
    for trial in trials:
        found.setdefault((trial["percent"], trial["global_batch_size"], trial["budget_s"]), []).append(trial)
    return {f"{p:g} %{f' at {size}' if several else ''}": found[p, size, s] for p, size, s in sorted(found)}


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

    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    for dose, chosen in by_dose(trials).items():
        whole = chosen[0]["budget_s"]
        budgets = np.arange(8, whole + 1, 2)
        share = [
            np.mean([verdict(t, threshold=0.01, budget_s=b) is Verdict.REGRESSED for t in chosen]) for b in budgets
        ]
        change = np.expm1(np.mean([np.mean([pair["effect"] for pair in trial["pairs"]]) for trial in chosen]))
        (line,) = axes.plot(budgets, share, label=f"{dose}; {change:+.1%} ({len(chosen)})")
        low, high = exact_interval(round(share[-1] * len(chosen)), len(chosen))
        axes.errorbar([whole], [share[-1]], [[share[-1] - low], [high - share[-1]]], color=line.get_color(), capsize=3)
    axes.set(
        xlabel="budget, s (global batch size 512)",
        ylabel="called REGRESSED",
        ylim=(-0.03, 1.03),
        title="Slowdowns found side by side (threshold 1 %); bars: exact 95 % intervals",
    )
    figure.legend(title="planted; change of the rate (trials)", loc="outside right upper")
    axes.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
