"""A benchmark session: logs, the verdict of each batch size, the baseline, and what to do next."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from perf.judge.duets import DuetResult
from perf.judge.exact import clock_problem
from perf.judge.stats import DuetEffect
from perf.judge.verdicts import CLAIMS, UNTOLD, Verdict, mean_rate, rank_efficiencies
from perf.records.baselines import Baseline, commit_text
from perf.records.sessions import Session, differences
from perf.report import plots
from perf.report.answers import PROMOTE, Judgements
from perf.report.duet import duet_sections
from perf.report.history import history_section, since_when
from perf.report.sections import DETECTABLE, EFFECT_HEADER, NONE, Answer, Report, Section, by_text, effect_cells, number

WORST_FIRST = {False: "FAILED", None: "unknown", True: "hold"}  # what a claim that holds, or does not, is called


def log_blocks(session: Session) -> str:
    """Return the log of the first run of each batch size, and whether the others have its losses."""
    blocks = []
    for size, measurement in session.measurements.items():
        runs, ranks = measurement.runs, measurement.world_size
        cut = f"micro-batches of {measurement.micro_batch_size}"
        if runs[0].steps:  # how a command cuts its batches, nobody else knows
            cut = f"{ranks} rank{'s' if ranks > 1 else ''}"
        lines = [f"Global batch size {size}, {cut}, run 1 of {len(runs)}", *runs[0].lines]
        if len(runs) > 1:
            losses = "the same losses" if all(run.losses == runs[0].losses for run in runs) else "OTHER LOSSES"
            lines.append(f"({len(runs) - 1} more run{'s' if len(runs) > 2 else ''} with {losses})")
        blocks.append("\n".join(lines))
    blocks += [f"Global batch size {size}: not measured: {reason}" for size, reason in session.failures.items()]
    return "\n\n".join(blocks)


def verdict_section(session: Session, judgements: Judgements) -> Section:
    """Return a row for each batch size, and the reasons.

    The change of a rate that a duet judged is in the duet's table, with the rates it belongs to.
    """
    reasons = {size: [reason] for size, reason in session.failures.items()}
    rows: list[tuple[str, ...]] = []
    for size, measurement in session.measurements.items():
        found = {claim: judgements[claim, size] for claim in CLAIMS if (claim, size) in judgements}
        rate = found.get("rate")
        if rate and rate.holds is False:
            found.pop("scaling", None)  # the rate explains it
        by_duet = rate and isinstance(rate.effect, DuetEffect)
        cells = effect_cells(rate.effect if rate and not by_duet else None)
        holds = [judgement.holds for claim, judgement in found.items() if claim != "rate"]
        others = next((f"{holds.count(state)} {word}" for state, word in WORST_FIRST.items() if state in holds), NONE)
        verdict = str(rate.verdict) if rate else "not judged"
        rows.append((str(size), number(mean_rate(measurement)), *cells, verdict, others))
        if by_duet or (rate and rate.verdict is Verdict.UNCHANGED):
            found.pop("rate")  # the duet's table has its reason, or it needs none
        reasons[size] = [
            f"{claim}{'' if claim == 'rate' else ' FAILED'}: {judgement.reason}"
            for claim, judgement in found.items()
            if claim == "rate" or judgement.holds is False
        ]
    rows += [(str(size), *[NONE] * 4, "NOT MEASURED", NONE) for size in session.failures]
    unit, rate_is = f"{session.sample}/sec", "lower quartile of a run's steps, geometric mean over runs"
    return Section(
        header=("size", unit, *EFFECT_HEADER, "verdict", "other claims"),
        rows=sorted(rows, key=lambda row: int(row[0])),
        notes=by_text(reasons),
        legend={unit: rate_is, "detectable": DETECTABLE},
    )


def _baseline_notes(baseline: Baseline, session: Session) -> list[str]:
    """Return where the baseline comes from, which software differs, and which of its batch sizes were not measured."""
    parts = [f"{baseline.path}, measured {baseline.provenance['date']} at {commit_text(baseline.provenance)}"]
    changed = differences(baseline.session.fingerprint.software, session.fingerprint.software)
    parts.append(f"software differs: {', '.join(changed)}" if changed else "same software")
    if missing := sorted(set(baseline.session.measurements) - {*session.measurements, *session.failures}):
        parts.append(f"NOT MEASURED NOW: {', '.join(map(str, missing))}")
    return parts


def result_note(result: Path, refusal: str) -> str:
    """Return how the result of a session becomes a baseline, or why it cannot."""
    use = (
        f"it cannot become this machine's baseline: {refusal}"
        if refusal
        else f"to make it this machine's baseline: {PROMOTE}"
    )
    return f"result: {result}; {use}"


def session_report(
    session: Session,
    *,
    provenance: Mapping[str, Any],
    judgements: Judgements,
    baseline: Baseline | None,
    expected: Mapping[int, Baseline | None],  # what the losses of each batch size are compared with
    duet: DuetResult | None,
    answer: Answer,
    threshold: float,  # of stored rates
    more: Sequence[Section],  # what plugins say of it
    past: Sequence[Baseline],  # earlier sessions like it and this one, the oldest first; none without a history
) -> Report:
    """Return what is to be said of a session, the most important first."""
    if since := since_when(past):
        answer = replace(answer, sentence=f"{answer.sentence}; {since}")
    rates = {size: judgement for (claim, size), judgement in judgements.items() if claim == "rate"}
    clocks = {size: clock_problem(m.runs) for size, m in session.measurements.items() if m.runs[0].steps}
    stored = {n: rate.effect for n, rate in rates.items() if rate.effect and not isinstance(rate.effect, DuetEffect)}
    pictures = [plots.effects_plot(stored, threshold, "stored times")] if stored else []
    sections = [replace(verdict_section(session, judgements), plots=pictures)]
    if any(clocks.values()):
        sections.append(Section(notes=by_text({size: [text] for size, text in clocks.items() if text})))
    if any(m.world_size > 1 for m in session.measurements.values()):
        sections.append(_ranks_section(session, baseline))
    if duet:
        beside = f"Side by side ({duet.mode}: {duet.mode_reason}), {duet.sides[0]} and {duet.sides[1]}"
        first, *others = duet_sections(duet)
        sections += [replace(first, title=beside), *others]
    if baseline:
        sections.append(Section(title="Baseline", notes=_baseline_notes(baseline, session)))
    losses = [*plots.session_losses(session), *filter(None, [plots.loss_differences(session, expected)])]
    rates_shown = [plots.rates_plot(session, baseline), plots.steps_plot(session)]
    sections.append(Section(title="Losses", plots=losses, is_detail=True))
    sections.append(Section(title="Rates", plots=rates_shown, is_detail=True))
    sections += [*more, _work_section(session), _machine_section(session, baseline)]
    sections += [history_section(past)] if past else []
    return Report(
        title=session.configuration,
        about=f"on {session.fingerprint.slug}, {provenance['date']}, commit {commit_text(provenance)}",
        answer=answer,
        sections=sections,
        command=provenance["command"],
        warnings=[
            *(f"{size}: {rate.reason}" for size, rate in rates.items() if rate.verdict is Verdict.INCONCLUSIVE),
            *(f"{size}: {text}" for size, text in clocks.items() if "DISAGREES" in text),
        ],
        is_bad=answer.verdict in ("FAILED", "NOT MEASURED") or any(j.holds is False for j in judgements.values()),
    )


def _ranks_section(session: Session, baseline: Baseline | None) -> Section:
    found = [rank_efficiencies(session), rank_efficiencies(baseline.session) if baseline else {}]
    rows = []
    for size, measurement in session.measurements.items():
        row = [str(size), str(measurement.world_size)]
        for one in (effects.get(size) for effects in found):
            interval = f"{1 + one.low:.1%} to {1 + one.high:.1%}" if one and math.isfinite(one.low) else NONE
            row += [f"{1 + one.effect_size:.1%}" if one else NONE, interval]
        rows.append(row)
    header = ("size", "ranks", "efficiency", "95% interval", "baseline", "its interval")
    notes = ["(efficiency: samples/sec of a rank, beside those with the fewest ranks, in pairs of neighbouring runs)"]
    return Section(title="Scaling over ranks", header=header, rows=rows, notes=notes)


def _work_section(session: Session) -> Section:
    names = ("flops", "allocated_bytes", "peak_bytes", "host_syncs", "optimizer_updates", "python_calls")
    rows = []
    for size, measurement in session.measurements.items():
        counters = measurement.runs[0].counters
        if counters is None:
            return Section(title="Work of a step", notes=[f"not measured: {UNTOLD}"], is_detail=True)
        counts = (sum(counters.ops.values()), *(getattr(counters, name) for name in names))
        rows.append((str(size), *(number(count, ",d") for count in counts)))
    return Section(title="Work of a step", header=("size", "operations", *names), rows=rows, is_detail=True)


def _machine_section(session: Session, baseline: Baseline | None) -> Section:
    facts, stored = (
        {**one.fingerprint.hardware, **one.fingerprint.software, **one.health} if one else {}
        for one in (session, baseline.session if baseline else None)
    )
    rows = [(name, str(facts.get(name, NONE)), str(stored.get(name, NONE))) for name in {**facts, **stored}]
    header = ("fact", "now", "baseline")
    return Section(title="Machine and software", header=header, rows=rows, left=header, is_detail=True)


def promotion_note(result: Baseline, written: Sequence[Path]) -> str:
    """Return which files a promotion wrote, and what they cannot be used for; `result` is any session of the result."""
    made = f"{result.path}, measured {result.provenance['date']} at commit {result.provenance['commit'][:12]}"
    lines = [f"{made}, is now", *(f"  {path}" for path in written)]
    if problem := result.rerun_problem:
        lines.append(f"It {problem}: --perf-duet and baseline: will refuse it. Commit, measure and promote again.")
    return "\n".join([*lines, "Review the change and commit it."])
