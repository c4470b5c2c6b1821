"""What a person reads of a duet in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import geometric_mean

import numpy as np

from perf.judge.attribution import Contribution, PhaseTotal
from perf.judge.duets import DuetResult, loss_problem, not_compared, software_differences, work_differences
from perf.judge.levels import DuetEffect, levels
from perf.judge.sequential import DuetJudgement
from perf.judge.stats import POWER
from perf.judge.verdicts import Verdict
from perf.measure.sides import Side
from perf.records.pairs import Pair
from perf.report.terminal import table

CONTRIBUTIONS = 8
"""Rows of the attribution that are shown."""

_WORST_FIRST = (
    Verdict.LOSSES_DIFFER,
    Verdict.REGRESSED,
    Verdict.INCONCLUSIVE,
    Verdict.IMPROVED,
    Verdict.UNCHANGED,
)


def duet_heading(
    workload: str, sizes: Sequence[int], sides: tuple[Side, Side], mode: str, mode_reason: str, budget_s: float
) -> str:
    """Return what is about to be compared, and how."""
    return (
        f"{workload} at {', '.join(map(str, sizes))}: at most {budget_s:.0f} s for each batch size\n"
        f"  baseline:  {sides[0].text}\n  candidate: {sides[1].text}\n  {mode}: {mode_reason}"
    )


def headline(result: DuetResult) -> str:
    """Return the worst of a duet in one line: which batch size, how much, how sure, and why."""
    size = worst(result)
    verdict, judgement = result.verdict(size), result.judgements.get(size)
    if judgement is None:
        return f"{verdict}: global batch size {size}: {loss_problem(result.work[size]) or result.problem}"
    effect = judgement.effect
    change = f"global batch size {size}: samples/sec {effect.effect_size:+.1%}"
    if verdict is Verdict.UNCHANGED:
        change = f"every batch size within {result.threshold:.1%}; the largest change: {change}"
    sure = f"95 % interval {interval(judgement)}, p = {effect.p_value:.1g}, {_pairs(effect)}"
    return f"{verdict}: {change} ({sure}){_because(result, size)}"


def worst(result: DuetResult) -> int:
    """Return the batch size with the worst verdict, and of these the one with the largest effect."""

    def badness(size: int) -> tuple[int, float]:
        found = result.judgements.get(size)
        return _WORST_FIRST.index(result.verdict(size)), -abs(found.effect.effect_size) if found else 0.0

    return min(result.work, key=badness)


def _pairs(effect: DuetEffect) -> str:
    return f"{effect.num_runs} pairs in {effect.num_starts} starts"


def _because(result: DuetResult, size: int) -> str:
    if problem := loss_problem(result.work[size]):
        return f"; {problem}"
    if result.judgements[size].verdict is Verdict.INCONCLUSIVE:
        return f"; {result.problem or result.judgements[size].reason}"
    if work := work_differences(result.work[size]):
        named = [row for rows in result.contributions.values() for row in rows[:1] if row.is_significant]
        first = f"most of it in {named[0].phase}: {named[0].operation}; " if named else ""
        return f"; {first}other work: {', '.join(work[:3])} per step"
    if rows := [row for row in result.contributions.get(size, []) if row.is_significant]:
        return f"; most of it in {rows[0].phase}: {rows[0].operation}, {1e3 * rows[0].difference_s:+.2f} ms a step"
    if software := software_differences(result.work):
        return f"; other software: {', '.join(software[:3])}"
    if missing := not_compared(result.work[size]):
        return f"; no difference in what was compared; not compared: {', '.join(missing[:3])}"
    return "; same work, same software"


def interval(judgement: DuetJudgement) -> str:
    """Return the shown interval, or that there is none."""
    effect = judgement.effect
    if not np.isfinite([effect.low, effect.high]).all():
        return "none"
    return f"{effect.low:+.1%} to {effect.high:+.1%}"


def duet_table(result: DuetResult) -> str:
    """Return one line for each batch size, then what both sides do otherwise."""
    rows = duet_rows(result)
    note = (
        "(samples/sec: medians over runs; change: mean over starts of the sides' processes, of pairs of runs in each; could "
        f"show: the smallest slowdown found {POWER:.0%} of the time)"
    )
    return "\n".join([table(DUET_HEADER, rows, left={"why"}), note, *work_notes(result)])


DUET_HEADER = (
    "batch size",
    "baseline",
    "candidate",
    "change",
    "95 % interval",
    "could show",
    "verdict",
    "pairs",
    "why",
)


def duet_rows(result: DuetResult) -> list[tuple[str, ...]]:
    """Return the cells under `DUET_HEADER`."""
    rows = []
    for size in result.work:
        pairs = [pair for pair in result.pairs if pair.global_batch_size == size]
        sides = [[getattr(pair, side) for pair in pairs] for side in ("baseline", "candidate")]
        rates = [f"{_rate(size, runs):,.0f}" if runs else "-" for runs in sides]
        verdict, judgement = str(result.verdict(size)), result.judgements.get(size)
        if judgement is None:
            rows.append((str(size), *rates, "-", "-", "-", verdict, f"{len(pairs)}", result.problem))
            continue
        effect = judgement.effect
        rows.append(
            (
                str(size),
                *rates,
                f"{effect.effect_size:+.2%}",
                interval(judgement),
                f"{effect.minimal_detectable_effect:.1%}" if effect.minimal_detectable_effect < 1 else "-",
                verdict,
                f"{effect.num_runs} in {effect.num_starts}",
                judgement.reason,
            )
        )
    return rows


def _rate(size: int, runs: Sequence[tuple[tuple[float, ...], ...]]) -> float:
    """Return the median of the runs' rates, samples/sec."""
    steps = [sum(len(marks) - 1 for marks in slices) for slices in runs]
    seconds = [sum(marks[-1] - marks[0] for marks in slices) for slices in runs]
    return float(np.median([size * n / s for n, s in zip(steps, seconds, strict=True)]))


def work_notes(result: DuetResult) -> list[str]:
    """Return what software and what work the sides differ in, and whether they learn alike."""
    software = software_differences(result.work)
    told = all(side.software for side in next(iter(result.work.values())))
    notes = [f"software: {', '.join(software) if software else 'the same' if told else 'not known'}"]
    for size, work in result.work.items():
        if found := work_differences(work):
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            notes.append(f"work at {size}: {', '.join(found[:8])}{more} per step")
        if problem := loss_problem(work):
            notes.append(f"losses at {size}: {problem}")
        if missing := not_compared(work):
            notes.append(f"not compared at {size}, since a side did not tell: {', '.join(missing)}")
    if len(notes) == 1:
        notes.append("work: the same operations, and the same losses to rounding, at every batch size")
    return notes


PHASE_HEADER = ("phase", "baseline ms", "candidate ms", "difference ms")
CONTRIBUTION_HEADER = ("phase", "operation", "count", "baseline ms", "candidate ms", "difference ms", "beyond chance")


def why_title(size: int) -> str:
    """Return what the rows of an attribution are."""
    return f"Where a step at {size} spends more or less, each operation timed alone (logging, checkpoint: one of each):"


def phase_rows(phases: Sequence[PhaseTotal]) -> list[tuple[str, ...]]:
    """Return the cells under `PHASE_HEADER`."""
    return [
        (row.phase, f"{1e3 * row.baseline_s:.2f}", f"{1e3 * row.candidate_s:.2f}", f"{1e3 * row.difference_s:+.2f}")
        for row in phases
    ]


def contribution_rows(contributions: Sequence[Contribution]) -> list[tuple[str, ...]]:
    """Return the cells under `CONTRIBUTION_HEADER`, of the rows that are shown."""
    return [
        (
            row.phase,
            row.operation,
            f"{row.baseline_count:g} -> {row.candidate_count:g}"
            if row.baseline_count != row.candidate_count
            else f"{row.candidate_count:g}",
            f"{1e3 * row.baseline_s:.3f}",
            f"{1e3 * row.candidate_s:.3f}",
            f"{1e3 * row.difference_s:+.3f}",
            "yes" if row.is_significant else "no",
        )
        for row in contributions[:CONTRIBUTIONS]
    ]


def duet_report(result: DuetResult) -> str:
    """Return all that is known: the table, and where the difference comes from."""
    parts = [duet_table(result)]
    for size, contributions in result.contributions.items():
        rows = contribution_rows(contributions)
        parts.append(f"{why_title(size)}\n{table(PHASE_HEADER, phase_rows(result.phases[size]), left={'phase'})}")
        parts.append(table(CONTRIBUTION_HEADER, rows, left={"phase", "operation"}))
    parts += [problem for problem in (result.problem, result.attribution_problem) if problem]
    return "\n\n".join(parts)


def calibration(result: DuetResult, budgets: Mapping[float, float]) -> str:
    """Return what one A/A duet says of this machine, level by level: steps, pairs of runs, starts; and what they cost.

    Args:
        result: of the same side twice.
        budgets: seconds for each batch size, by the threshold that they decide.
    """
    lines = []
    for size, judgement in result.judgements.items():
        pairs = [pair for pair in result.pairs if pair.global_batch_size == size]
        steps = [np.diff(marks) for pair in pairs for marks in (*pair.baseline, *pair.candidate)]
        within = float(np.median([float(np.std(np.log(run))) for run in steps if len(run) > 1] or [np.nan]))
        grouped = [[pair.effect for pair in pairs if pair.start == start] for start in {pair.start for pair in pairs}]
        starts = [start for start in grouped if len(start) > 1]
        typical = geometric_mean([float(np.median(run)) for run in steps])
        lines.append(f"{size}: a step takes {1e3 * typical:.0f} ms; steps of a run spread by {within:.1%}")
        if len(starts) > 1:
            found = levels(starts)
            lines.append(
                f"  pairs of runs in one start spread by {found.pair:.2%}, starts by {found.start:.2%} beyond that"
            )
        error = judgement.effect.standard_error
        lines.append(
            f"  change {judgement.effect.effect_size:+.2%} (standard error {error:.2%}), {_pairs(judgement.effect)}"
        )
    lines.append(f"a start of both sides takes {result.start_s:.1f} s, a pair {_pair_s(result.pairs):.1f} s")
    lines.append("(spread: standard deviation)")
    for threshold, seconds in budgets.items():
        lines.append(f"to find {threshold:.0%} {POWER:.0%} of the time: --budget {seconds:.0f}s for each batch size")
    return "\n".join(lines)


def _pair_s(pairs: Sequence[Pair]) -> float:
    """Return what a pair takes, seconds: the median of the times between two that follow each other in one start."""
    between = [after.ended_s - pair.ended_s for pair, after in pairwise(pairs) if after.start == pair.start]
    return float(np.median(between or [np.nan]))
