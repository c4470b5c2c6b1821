"""A session as Markdown: the summary of a night, whose first line says it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perf.judge.duets import DuetResult
from perf.judge.verdicts import Judgement, Verdict
from perf.records.baselines import Baseline
from perf.records.sessions import Session
from perf.report.bench import VERDICT_HEADER, baseline_note, verdict_rows
from perf.report.duet import (
    CONTRIBUTION_HEADER,
    DUET_HEADER,
    PHASE_HEADER,
    contribution_rows,
    duet_rows,
    headline,
    phase_rows,
    why_title,
    work_notes,
)


def summary(
    session: Session,
    provenance: Mapping[str, Any],
    judgements: Mapping[tuple[str, int], Judgement],
    baseline: Baseline | None,
    duet: DuetResult | None,
    problem: str,
) -> list[str]:
    """Return the lines of a session's summary; the first says what matters most.

    Args:
        session: what was measured.
        provenance: its date and commit, and whether there were uncommitted changes.
        judgements: by claim and batch size.
        baseline: what it was compared with.
        duet: the comparison side by side, if there was one.
        problem: why the session fails although no claim did.
    """
    parts = [f"**{first_line(session, judgements, duet, problem)}**", ""]
    commit = f"{provenance['commit'][:12]}{' with uncommitted changes' if provenance['dirty'] else ''}"
    parts += [f"`{session.configuration}` on `{session.fingerprint.slug}`, {provenance['date']}, commit {commit}", ""]
    parts += [markdown_table(VERDICT_HEADER, verdict_rows(session, judgements)), ""]
    if duet:
        parts += [f"Side by side ({duet.mode}: {duet.mode_reason}), {duet.sides[0]} and {duet.sides[1]}:", ""]
        parts += [markdown_table(DUET_HEADER, duet_rows(duet)), "", *(f"- {note}" for note in work_notes(duet)), ""]
        for size, contributions in duet.contributions.items():
            parts += [why_title(size), "", markdown_table(PHASE_HEADER, phase_rows(duet.phases[size])), ""]
            parts += [markdown_table(CONTRIBUTION_HEADER, contribution_rows(contributions)), ""]
    if baseline:
        parts += [f"Baseline: {baseline_note(baseline, session)}"]
    return parts


def first_line(
    session: Session,
    judgements: Mapping[tuple[str, int], Judgement],
    duet: DuetResult | None,
    problem: str,
) -> str:
    """Return what matters most: a regression, another failure, what could not be told, or that all is well."""
    failed = {key: judgement for key, judgement in judgements.items() if judgement.holds is False}
    if duet and any(claim == "rate" or found.verdict is Verdict.LOSSES_DIFFER for (claim, _), found in failed.items()):
        return headline(duet)
    for wanted in ("rate", "loss_decreases", "losses", "counters", "scaling"):
        for (claim, size), judgement in failed.items():
            if claim == wanted:
                return f"{judgement.verdict or 'FAILED'}: global batch size {size}: {_how_much(judgement)}"
    if session.failures:
        size, reason = next(iter(session.failures.items()))
        return f"NOT MEASURED: global batch size {size}: {reason}"
    if problem:
        return f"FAILED: {problem}"
    if duet:
        return headline(duet)
    rates = {size: judgement for (claim, size), judgement in judgements.items() if claim == "rate"}
    for verdict in (Verdict.NO_BASELINE, Verdict.NOT_COMPARABLE, Verdict.INCONCLUSIVE, Verdict.IMPROVED):
        if found := [size for size, judgement in rates.items() if judgement.verdict is verdict]:
            sizes = ", ".join(map(str, found))
            return f"{verdict}: global batch size {sizes}: {rates[found[0]].reason}"
    return "UNCHANGED: every claim holds" if rates else "nothing was timed"


def _how_much(judgement: Judgement) -> str:
    effect = judgement.effect
    if effect is None:
        return f"{judgement.claim}: {judgement.reason}"
    interval = f"95 % interval {effect.low:+.1%} to {effect.high:+.1%}, p = {effect.p_value:.1g}"
    return f"{judgement.claim} {effect.effect_size:+.1%} ({interval} in {effect.num_runs} runs); {judgement.reason}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of text cells."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
