"""A benchmark session: logs, the verdict of each batch size, the baseline, and what to do next."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from perf.judge.duets import DuetResult
from perf.judge.exact import clock_problem
from perf.judge.stats import DuetEffect
from perf.judge.verdicts import CLAIMS, UNTOLD, Verdict, mean_rate, rank_efficiencies
from perf.printable import printable
from perf.records.baselines import Baseline, PublishedLine, PublishedRun, commit_text
from perf.records.sessions import Session, differences
from perf.report.answers import PROMOTE, Judgements
from perf.report.duet import duet_sections
from perf.report.history import history_section, since_when
from perf.report.plots import (
    effects_plot,
    loss_difference_plot,
    published_losses,
    rates_plot,
    session_losses,
    steps_plots,
)
from perf.report.sections import (
    DETECTABLE,
    EFFECT_HEADER,
    NONE,
    Answer,
    Report,
    Section,
    by_text,
    effect_cells,
    number,
    percent,
)


def log_blocks(session: Session) -> str:
    """Return the log of the first run of each batch size, whether the others have its losses, and all their warm-up."""
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
    dropped = [run.warmup_steps for m in session.measurements.values() for run in m.runs]
    steps = "log lines" if any(m.runs[0].steps for m in session.measurements.values()) else "steps"
    left_out = f"{sum(dropped)} {steps} are not in the times (at most {max(dropped)} of a run)"
    return "\n\n".join([*blocks, f"warm-up: {left_out}: they were slower than the later half of their run"])


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
        others = _outcome([judgement.holds for claim, judgement in found.items() if claim != "rate"])
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


def _outcome(holds: Sequence[bool | None]) -> str:
    """Return the worst outcome of some claims, and how many have it."""
    words = {False: "FAILED", None: "unknown", True: "hold"}
    return next((f"{holds.count(state)} {word}" for state, word in words.items() if state in holds), NONE)


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
    if refusal:
        return f"result: {result}; it cannot become this machine's baseline: {refusal}"
    return f"result: {result}; to make it this machine's baseline: {PROMOTE}"


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
    published: Mapping[PublishedRun, Sequence[PublishedLine]],  # runs that somebody published, and their logs
    past: Sequence[Baseline],  # earlier sessions like it and this one, the oldest first; none without a history
) -> Report:
    """Return what is to be said of a session, the most important first."""
    if since := since_when(past):
        answer = replace(answer, sentence=f"{answer.sentence}; {since}")
    rates = {size: judgement for (claim, size), judgement in judgements.items() if claim == "rate"}
    clocks = {size: clock_problem(m.runs) for size, m in session.measurements.items() if m.runs[0].steps}
    effects = {size: rate.effect for size, rate in rates.items() if rate.effect}
    stored = {size: effect for size, effect in effects.items() if not isinstance(effect, DuetEffect)}
    plots = [effects_plot(stored, threshold, "stored times")] if stored else []
    sections = [replace(verdict_section(session, judgements), plots=plots)]
    sections += (
        [Section(notes=by_text({size: [text] for size, text in clocks.items() if text}))]
        if any(clocks.values())
        else []
    )
    if any(m.world_size > 1 for m in session.measurements.values()):
        sections.append(_ranks_section(session, baseline))
    if duet:
        beside = f"Side by side ({duet.mode}: {duet.mode_reason}), {duet.sides[0]} and {duet.sides[1]}"
        first, *others = duet_sections(duet)
        sections += [replace(first, title=beside), *others]
    if baseline:
        sections.append(Section(title="Baseline", notes=_baseline_notes(baseline, session)))
    difference = loss_difference_plot(session, expected)
    sections += [
        Section(title="Losses", plots=[*session_losses(session), *filter(None, [difference])], is_detail=True),
        Section(title="Rates", plots=[rates_plot(session, baseline), *steps_plots(session)], is_detail=True),
    ]
    if published:
        plots = published_losses({run.global_batch_size: lines for run, lines in published.items() if lines})
        title = "Published runs of another machine: compare the shapes, not the numbers"
        notes = published_note(list(published)).split("\n")
        sections.append(Section(title=title, plots=plots, notes=notes, is_detail=True))
    sections += [_work_section(session), _machine_section(session, baseline)]
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
    """Return the samples/sec of each rank beside those of the fewest ranks."""
    stored = rank_efficiencies(baseline.session) if baseline else {}
    rows = []
    for size, efficiency in rank_efficiencies(session).items():
        now, then = (
            (percent(one.effect_size + 1), f"{percent(one.low + 1)} to {percent(one.high + 1)}")
            if one
            else (NONE, NONE)
            for one in (efficiency, stored.get(size))
        )
        rows.append((str(size), str(session.measurements[size].world_size), *now, *then))
    header = ("size", "ranks", "efficiency", "95% interval", "baseline", "its interval")
    notes = ["(efficiency: samples/sec of a rank, beside those with the fewest ranks, in pairs of neighbouring runs)"]
    return Section(title="Scaling over ranks", header=header, rows=rows, notes=notes)


def _work_section(session: Session) -> Section:
    """Return what one step does at each batch size."""
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
    """Return the machine and the software, how the machine was when measuring began, and what the baseline's were."""
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
        lines.append(
            f"It {problem}, so it cannot be run again: --perf-duet and baseline: will refuse it. To use them, commit, "
            "measure and promote again."
        )
    return "\n".join([*lines, "Review the change and commit it."])


def published_note(runs: Sequence[PublishedRun]) -> str:
    """Return published runs of other machines in a line each."""
    lines = []
    for run in runs:
        what = f"{run.samples_per_sec:,.0f} samples/sec" if run.samples_per_sec else f"did not run ({run.failure})"
        where = f"{run.workload} on {run.machine}, global batch size {run.global_batch_size}"
        lines.append(printable(f"reference: {where}: {what}"))
    return "\n".join(lines)
