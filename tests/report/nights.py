"""Reports of made-up sessions and duets, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perf.judge.duets import DuetResult, as_claims
from perf.judge.verdicts import Judgement
from perf.records.baselines import Baseline, PublishedLine, PublishedRun
from perf.records.sessions import Session
from perf.report.answers import of_session
from perf.report.bench import session_report
from perf.report.sections import Report, Section

PROVENANCE = {
    "date": "2026-11-24T01:02:03+00:00",
    "command": "pytest tests/benchmarks --benchmark-compare",
    "commit": "0123456789abcdef",
    "dirty": False,
}


def judged(result: DuetResult) -> dict[tuple[str, int], Judgement]:
    """Return the claims of a session with a duet."""
    return {(claim, size): found for size in result.judgements for claim, found in as_claims(result, size).items()}


def report_of(
    session: Session,
    judgements: Mapping[tuple[str, int], Judgement],
    *,
    baseline: Baseline | None = None,
    duet: DuetResult | None = None,
    published: Mapping[PublishedRun, Sequence[PublishedLine]] | None = None,
    history: Sequence[Section] = (),
    **provenance: Any,
) -> Report:
    """Return what is said of a session."""
    return session_report(
        session,
        provenance={**PROVENANCE, **provenance},
        judgements=judgements,
        baseline=baseline,
        expected=dict.fromkeys(session.measurements, baseline),
        duet=duet,
        answer=of_session(session, judgements, baseline, duet, ""),
        threshold=0.05,
        published=published or {},
        history=history,
    )
