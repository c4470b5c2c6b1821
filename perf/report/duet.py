"""A duet: what is compared, the verdict of each batch size, where the time differs; and the noise of a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import geometric_mean
from typing import TYPE_CHECKING

import numpy as np

from perf.judge.attribution import PhaseDifference
from perf.judge.duets import (
    CHANGED,
    DUET_BUDGET,
    DuetResult,
    loss_problem,
    not_compared,
    software_differences,
    work_differences,
)
from perf.judge.levels import DuetEffect, levels
from perf.judge.stats import POWER
from perf.judge.verdicts import Verdict
from perf.records.phases import STEP_PHASES
from perf.report.sections import (
    DETECTABLE,
    EFFECT_HEADER,
    NONE,
    Section,
    as_text,
    by_text,
    change_text,
    effect_cells,
    number,
    percent,
)

if TYPE_CHECKING:
    from perf.measure.sides import Side

CONTRIBUTIONS = 8
"""The most operations that are shown."""

_WORST_FIRST = (Verdict.LOSSES_DIFFER, Verdict.REGRESSED, Verdict.INCONCLUSIVE, Verdict.IMPROVED, Verdict.UNCHANGED)


def duet_heading(
    workload: str, sizes: Sequence[int], sides: tuple[Side, Side], mode: str, mode_reason: str, budget_s: float
) -> str:
    """Return what is about to be compared, and how."""
    return (
        f"{workload} at {', '.join(map(str, sizes))}: at most {budget_s:.0f} s for each batch size\n"
        f"  baseline:  {sides[0].text}\n  candidate: {sides[1].text}\n  {mode}: {mode_reason}"
    )


def headline(result: DuetResult, *, budget_option: str = DUET_BUDGET) -> str:
    """Return the worst of a duet in one line: which batch size, how much, how significant, and why."""
    size = worst(result)
    verdict, judgement = result.verdict(size), result.judgements.get(size)
    if judgement is None:
        return f"{verdict}: global batch size {size}: {loss_problem(result.work[size]) or result.problem}"
    effect = judgement.effect
    change = f"global batch size {size}: samples/sec {change_text(effect, _pairs(effect))}"
    if verdict is Verdict.UNCHANGED:
        change = f"every batch size within {percent(result.threshold)}; the largest change: {change}"
    advice = result.problem or judgement.advice(budget_option)
    reason = advice if verdict is Verdict.INCONCLUSIVE else _because(result, size)
    return f"{verdict}: {change}; {loss_problem(result.work[size]) or reason}"


def worst(result: DuetResult) -> int:
    """Return the batch size with the worst verdict, and of these the one with the largest effect."""

    def badness(size: int) -> tuple[int, float]:
        found = result.judgements.get(size)
        return _WORST_FIRST.index(result.verdict(size)), -abs(found.effect.effect_size) if found else 0.0

    return min(result.work, key=badness)


def _pairs(effect: DuetEffect) -> str:
    return f"{effect.num_runs} pairs in {effect.num_starts} starts"


def _because(result: DuetResult, size: int) -> str:
    """Return where the time differs, and the first difference that may explain it."""
    part = _largest_part(result, size)
    if work := work_differences(result.work[size]):
        return f"{part}work differs: {', '.join(work[:3])} per step"
    if part:
        return part.removesuffix("; ")
    if software := software_differences(result.work):
        return f"software differs: {', '.join(software[:3])}"
    if missing := not_compared(result.work[size]):
        return f"no difference in what was compared; not compared: {', '.join(missing[:3])}"
    return "same work, same software"


def _largest_part(result: DuetResult, size: int) -> str:
    """Return the operation that explains most of a changed rate: it and its phase differ in its direction."""
    if result.verdict(size) not in CHANGED:
        return ""
    slower = result.judgements[size].effect.effect_size < 0
    alike = {
        total.phase
        for total in result.phases.get(size, [])
        if total.difference_s and (total.difference_s > 0) == slower
    }
    for row in result.contributions.get(size, []):
        if row.is_significant and row.phase in alike & {*STEP_PHASES} and (row.difference_s > 0) == slower:
            return f"largest part in {row.phase}: {row.operation}, {1e3 * row.difference_s:+.2f} ms per step; "
    return ""


def duet_report(result: DuetResult, *, budget_option: str = DUET_BUDGET) -> str:
    """Return all of a duet as text; `budget_option` is the form in which the tool at hand takes a budget."""
    return as_text(duet_sections(result, budget_option=budget_option))


def duet_sections(result: DuetResult, *, budget_option: str = DUET_BUDGET) -> list[Section]:
    """Return the verdict of each batch size, what differs between the sides, and where the time differs."""
    rows, reasons = [], {}
    for size in result.work:
        verdict, judgement, rates = result.verdict(size), result.judgements.get(size), result.rates(size)
        cells = [number(rate) for rate in rates] if rates else [NONE, NONE]
        effect = judgement.effect if judgement else None
        starts = str(effect.num_starts) if effect else NONE
        rows.append((str(size), *cells, *effect_cells(effect), str(verdict), starts))
        plain = verdict is Verdict.UNCHANGED and judgement and not judgement.effect.is_significant
        reasons[size] = [judgement.advice(budget_option)] if judgement and not plain else []
    sections = [
        Section(
            header=("batch size", "baseline", "candidate", *EFFECT_HEADER, "verdict", "starts"),
            rows=rows,
            notes=[*by_text(reasons), *_work_notes(result)],
            legend={
                "candidate": "samples/sec, as the baseline; mean rate of a run, median over runs",
                "change": "in pairs of runs, mean over starts",
                "detectable": DETECTABLE,
            },
        )
    ]
    sections += [_attribution_section(result, size) for size in result.contributions]
    return sections + [Section(title=problem) for problem in (result.problem, result.attribution_problem) if problem]


def _work_notes(result: DuetResult) -> list[str]:
    """Return the differences between the sides in software, in the work of a step, and in losses."""
    software = software_differences(result.work)
    known = all(side.software for side in next(iter(result.work.values())))
    notes = [f"software: {', '.join(software) if software else 'the same' if known else 'not known'}"]
    found: dict[int, list[str]] = {}
    for size, work in result.work.items():
        texts = found.setdefault(size, [])
        if differing := work_differences(work):
            more = f" and {len(differing) - 8} more" if len(differing) > 8 else ""
            texts.append(f"work differs: {', '.join(differing[:8])}{more} per step")
        if problem := loss_problem(work):
            texts.append(f"losses differ: {problem}")
        if missing := not_compared(work):
            texts.append(f"not compared, because a side lacks it: {', '.join(missing)}")
    return notes + (by_text(found) or ["work: the same operations, and the same losses up to rounding"])


def _attribution_section(result: DuetResult, size: int) -> Section:
    """Return the phases of a step, each with its operations whose time or number differs significantly."""
    significant = [row for row in result.contributions[size] if row.is_significant]
    named = significant[:CONTRIBUTIONS]
    rows = []
    for phase in result.phases[size]:
        rows.append((phase.phase, "(all)", NONE, *_ms(phase)))
        for row in [row for row in named if row.phase == phase.phase]:
            counts = dict.fromkeys((row.baseline_count, row.candidate_count))
            rows.append(("", row.operation, " -> ".join(number(count, "g") for count in counts), *_ms(row)))
    rest = f"({len(significant) - len(named) or 'no'} other operations differ significantly)"
    return Section(
        title=f"Where a step at {size} differs, each operation timed alone (logging, checkpoint: one of each)",
        header=("phase", "operation", "count", "baseline ms", "candidate ms", "difference ms"),
        rows=rows,
        left={"phase", "operation"},
        notes=[rest if named else "No operation differs by more than chance explains."],
    )


def _ms(row: PhaseDifference) -> tuple[str, ...]:
    times = [(row.baseline_s, ".3f"), (row.candidate_s, ".3f"), (row.difference_s, "+.3f")]
    return tuple(number(1e3 * seconds, style) for seconds, style in times)


def calibration(result: DuetResult, budgets: Mapping[float, float]) -> str:
    """Return the noise of this machine, level by level: steps, pairs of runs, starts; and what they cost.

    Args:
        result: of the same side twice.
        budgets: seconds for each batch size, by the slowdown that they show.
    """
    rows = []
    for size, judgement in result.judgements.items():
        pairs = [pair for pair in result.pairs if pair.global_batch_size == size]
        steps = [np.diff(marks) for pair in pairs for marks in (*pair.baseline, *pair.candidate)]
        within = float(np.median([float(np.std(np.log(run))) for run in steps if len(run) > 1] or [np.nan]))
        grouped = [[pair.effect for pair in pairs if pair.start == start] for start in {pair.start for pair in pairs}]
        starts = [start for start in grouped if len(start) > 1]
        spreads = [f"{spread:.2%}" for spread in levels(starts)] if len(starts) > 1 else [NONE, NONE]
        effect, step_ms = judgement.effect, 1e3 * geometric_mean([float(np.median(run)) for run in steps])
        change = (f"{effect.effect_size:+.2%}", f"{effect.standard_error:.2%}")
        rows.append((str(size), number(step_ms), f"{within:.2%}", *spreads, *change))
    between = [after.ended_s - pair.ended_s for pair, after in pairwise(result.pairs) if after.start == pair.start]
    cost = f"a start of both sides takes {result.start_s:.1f} s, a pair {np.median(between or [np.nan]):.1f} s"
    header = ("batch size", "step ms", "steps", "pairs", "starts", "change", "standard error")
    notes = [
        f"to show a slowdown of {percent(slowdown)} ({POWER:.0%} power): "
        f"{DUET_BUDGET.format(seconds)} for each batch size"
        for slowdown, seconds in budgets.items()
    ]
    legend = {"steps": "standard deviation within a run", "pairs": "within a start", "starts": "beyond that of pairs"}
    return as_text([Section(header=header, rows=rows, notes=[cost, *notes], legend=legend)])
