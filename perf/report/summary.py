"""The summary of a session in Markdown; its first line is the most important result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perf.judge.duets import SESSION_BUDGET, DuetResult
from perf.judge.verdicts import CLAIMS, Judgement, Verdict
from perf.records.baselines import Baseline
from perf.records.sessions import Session
from perf.report.bench import Judgements, baseline_note, verdict_section
from perf.report.duet import duet_sections, headline
from perf.report.sections import Section, as_markdown, change_text


def summary(
    session: Session,
    provenance: Mapping[str, Any],
    judgements: Judgements,
    baseline: Baseline | None,
    duet: DuetResult | None,
    problem: str,
) -> list[str]:
    """Return the lines of a session's summary; `problem` is why it fails although no claim does."""
    commit = f"{provenance['commit'][:12]}{' with uncommitted changes' if provenance['dirty'] else ''}"
    about = f"`{session.configuration}` on `{session.fingerprint.slug}`, {provenance['date']}, commit {commit}"
    first = f"**{first_line(session, judgements, duet, problem)}**"
    sections = [Section(title=first), Section(title=about), verdict_section(session, judgements)]
    if duet:
        beside = f"Side by side ({duet.mode}: {duet.mode_reason}), {duet.sides[0]} and {duet.sides[1]}:"
        sections += [Section(title=beside), *duet_sections(duet, budget_option=SESSION_BUDGET)]
    if baseline:
        sections.append(Section(title=f"Baseline: {baseline_note(baseline, session)}"))
    return as_markdown(sections).splitlines()


def first_line(session: Session, judgements: Judgements, duet: DuetResult | None, problem: str) -> str:
    """Return the most important result: a failed claim (`CLAIMS`), what is unknown, or that all is well."""
    failed = [(claim, size) for claim, size in judgements if judgements[claim, size].holds is False]
    if failed:
        claim, size = min(failed, key=lambda key: (CLAIMS.index(key[0]), _effect_size(judgements[key])))
        judgement = judgements[claim, size]
        by_duet = claim in ("rate", "scaling") or judgement.verdict is Verdict.LOSSES_DIFFER
        if duet and size in duet.work and by_duet:
            return headline(duet, budget_option=SESSION_BUDGET)
        return f"{judgement.verdict or 'FAILED'}: global batch size {size}: {_how_much(judgement)}"
    if session.failures:
        size, reason = next(iter(session.failures.items()))
        return f"NOT MEASURED: global batch size {size}: {reason}"
    if problem:
        return f"FAILED: {problem}"
    if duet:
        return headline(duet, budget_option=SESSION_BUDGET)
    rates = {size: judgement for (claim, size), judgement in judgements.items() if claim == "rate"}
    for verdict in (Verdict.NO_BASELINE, Verdict.NOT_COMPARABLE, Verdict.INCONCLUSIVE, Verdict.IMPROVED):
        if found := [size for size, judgement in rates.items() if judgement.verdict is verdict]:
            sizes = ", ".join(map(str, found))
            return f"{verdict}: global batch size {sizes}: {rates[found[0]].reason}"
    unknown = [claim for claim in CLAIMS if any(j.holds is None for (c, _), j in judgements.items() if c == claim)]
    rest = f"; unknown: {', '.join(unknown)}" if unknown else ""
    return f"UNCHANGED: no claim fails{rest}" if rates else f"no rate was measured, and no claim fails{rest}"


def _effect_size(judgement: Judgement) -> float:
    return judgement.effect.effect_size if judgement.effect else 0.0


def _how_much(judgement: Judgement) -> str:
    effect = judgement.effect
    how_much = f" {change_text(effect, f'{effect.num_runs} runs')};" if effect else ":"
    return f"{judgement.claim}{how_much} {judgement.reason}"
