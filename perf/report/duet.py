"""A duet: what is compared, the verdict of each batch size, and where the time differs."""

from collections.abc import Sequence

from perf.judge import verdicts
from perf.judge.attribution import PhaseDifference
from perf.judge.duets import DuetResult, loss_problem, not_compared, software_differences
from perf.judge.verdicts import Verdict
from perf.printable import wrapped
from perf.report import sections
from perf.report.answers import differing_work, of_duet
from perf.report.plots import effects_plot, pairs_plot, phases_plot
from perf.report.sections import NONE, Report, Section, as_text, by_text, duration, effect_cells, number

CONTRIBUTIONS = 8  # the most operations that are shown


def duet_heading(
    workload: str, sizes: Sequence[int], sides: tuple[str, str], mode: str, mode_reason: str, budget_s: float
) -> str:
    """Return what is about to be compared, how, and how long it takes."""
    return wrapped(
        f"{workload} at {', '.join(map(str, sizes))}: at most {duration(budget_s * len(sizes))}, "
        f"and about 15 s around it\n  baseline:  {sides[0]}\n  candidate: {sides[1]}\n  {mode}: {mode_reason}"
    )


def duet_report(result: DuetResult, *, title: str, about: str, command: str) -> Report:
    """Return what is to be said of a duet; `title` is the workload, `about` when and where it was made."""
    warnings = {size: [differing_work(work)] for size, work in result.work.items()}
    for size, judgement in result.judgements.items():
        if result.verdict(size) is Verdict.INCONCLUSIVE:
            warnings[size].append(f"INCONCLUSIVE: {judgement.advice(result.budget_option)}")
    answer = of_duet(result)
    return Report(
        title=title,
        about=f"{about}; {result.mode}: {result.mode_reason}; baseline {result.sides[0]}, candidate {result.sides[1]}",
        answer=answer,
        sections=duet_sections(result),
        command=command,
        warnings=by_text(warnings),
        is_bad=answer.verdict in (Verdict.REGRESSED, Verdict.LOSSES_DIFFER),
    )


def duet_text(result: DuetResult) -> str:
    """Return all of a duet as text."""
    return as_text([Section(title=str(of_duet(result))), *duet_sections(result)])


def duet_sections(result: DuetResult) -> list[Section]:
    """Return the verdict of each batch size, what differs between the sides, and where the time differs."""
    rows, reasons = [], {}
    for size in result.work:
        verdict, judgement, rates = result.verdict(size), result.judgements.get(size), result.rates(size)
        cells = [number(rate) for rate in rates] if rates else [NONE, NONE]
        rows.append((str(size), *cells, *effect_cells(judgement.effect if judgement else None), str(verdict)))
        plain = verdict is Verdict.UNCHANGED and judgement and not judgement.effect.is_significant
        reasons[size] = [judgement.advice(result.budget_option)] if judgement and not plain else []
    effects = {size: judgement.effect for size, judgement in result.judgements.items()}
    pictures = [effects_plot(effects, result.threshold, "side by side"), pairs_plot(result)] if result.pairs else []
    table = Section(
        header=("size", "baseline", "candidate", *sections.EFFECT_HEADER, "verdict"),
        rows=rows,
        notes=[*_work_notes(result), *by_text(reasons)],
        legend={
            "baseline, candidate": f"{result.sample}/sec, mean of a run, median over runs",
            "change": "in pairs of runs, mean over starts",
            "detectable": sections.DETECTABLE,
        },
        plots=pictures,
    )
    attributions = [_attribution_section(result, size) for size in result.contributions]
    problems = [Section(title=problem) for problem in (result.problem, result.attribution_problem) if problem]
    return [table, *attributions, *problems]


def _work_notes(result: DuetResult) -> list[str]:
    first = next(iter(result.work.values()))
    unchanged = "the same" if all(side.software for side in first) else "not known"
    notes = [f"software: {', '.join(software_differences(first)) or unchanged}"]
    found: dict[int, list[str]] = {}
    for size, work in result.work.items():
        problem, missing = loss_problem(work), ", ".join(not_compared(work))
        losses = problem and f"losses differ: {problem}{'' if size in result.judgements else '; not timed'}"
        lacking = missing and f"not compared, because a side lacks it: {missing}"
        if not any(side.counters for side in work):
            lacking = f"counters: not measured, {verdicts.UNTOLD}"
        found[size] = [differing_work(work, most=8), losses, lacking]
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
    lines = [f"{row.operation} in {row.phase}: {row.line}" for row in named if row.line]
    return Section(
        title=f"Where a step at {size} differs: milliseconds, each operation timed alone",
        header=("phase", "operation", "count", "baseline", "candidate", "difference"),
        rows=rows,
        left=("phase", "operation"),
        plots=[phases_plot(result.phases[size], size)],
        notes=[rest, *lines] if named else ["No operation differs by more than chance explains."],
    )


def _ms(row: PhaseDifference) -> tuple[str, ...]:
    times = [(row.baseline_s, ".3f"), (row.candidate_s, ".3f"), (row.difference_s, "+.3f")]
    return tuple(number(1e3 * seconds, style) for seconds, style in times)
