"""The summary of a session in Markdown; its first line is the most important result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perf.judge.duets import SESSION_BUDGET, DuetResult
from perf.records.baselines import Baseline
from perf.records.sessions import Session
from perf.report.answers import Answer, Judgements
from perf.report.bench import baseline_note, verdict_section
from perf.report.duet import duet_sections
from perf.report.sections import Section, as_markdown


def summary(
    session: Session,
    provenance: Mapping[str, Any],
    judgements: Judgements,
    baseline: Baseline | None,
    duet: DuetResult | None,
    answer: Answer,
) -> str:
    """Return a session's summary."""
    commit = f"{provenance['commit'][:12]}{' with uncommitted changes' if provenance['dirty'] else ''}"
    about = f"`{session.configuration}` on `{session.fingerprint.slug}`, {provenance['date']}, commit {commit}"
    sections = [Section(title=text) for text in (f"**{answer.line}**", f"Next: {answer.next_step}", about)]
    sections.append(verdict_section(session, judgements))
    if duet:
        beside = f"Side by side ({duet.mode}: {duet.mode_reason}), {duet.sides[0]} and {duet.sides[1]}:"
        sections += [Section(title=beside), *duet_sections(duet, budget_option=SESSION_BUDGET)]
    if baseline:
        sections.append(Section(title=f"Baseline: {baseline_note(baseline, session)}"))
    return as_markdown(sections) + "\n"
