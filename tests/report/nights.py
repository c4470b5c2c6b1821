"""Reports of made-up sessions and duets, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from perf.judge.duets import DuetResult, as_claims
from perf.judge.verdicts import Judgement
from perf.records.baselines import Baseline
from perf.records.sessions import Session
from perf.report.answers import of_session
from perf.report.bench import session_report
from perf.report.sections import Report, Section
from tests.judge.noise import COUNTERS
from tests.judge.test_verdicts import quiet

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
    more: Sequence[Section] = (),
    past: Sequence[Baseline] = (),
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
        more=more,
        past=past,
    )


def night(
    number: int, verdict: str = "UNCHANGED", slower: float = 1.0, *, torch: str = "", **counters: Any
) -> Baseline:
    """Return a session of a night in autumn, whose steps take `slower` times as long."""
    session = quiet()

    def at_size(measurement: Any) -> Any:
        runs = tuple(
            msgspec.structs.replace(
                run,
                step_s=tuple(slower * s for s in run.step_s),
                counters=msgspec.structs.replace(COUNTERS, **counters),
            )
            for run in measurement.runs
        )
        return msgspec.structs.replace(measurement, runs=runs)

    software = dict(session.fingerprint.software) | ({"torch": torch} if torch else {})
    session = msgspec.structs.replace(
        session,
        measurements={size: at_size(measurement) for size, measurement in session.measurements.items()},
        fingerprint=msgspec.structs.replace(session.fingerprint, software=software),
    )
    made: Any = {
        "date": str(np.datetime64("2026-09-01") + number),
        "command": "",
        "commit": f"{number:02x}" * 20,
        "dirty": False,
    }
    return Baseline(path=Path(f"night-{number}.json"), session=session, provenance=made, verdict=verdict)
