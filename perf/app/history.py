"""Keep what a session found beside those before it, and show the trend."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from perf.app.report import publish
from perf.app.what import here
from perf.errors import PerfError
from perf.finding import find_root
from perf.judge.duets import DuetResult
from perf.judge.verdicts import mean_rate
from perf.printable import shown
from perf.records.baselines import Provenance
from perf.records.history import Entry, append, history_of, load
from perf.records.sessions import Session
from perf.report.answers import NOTHING_TO_DO
from perf.report.history import BAD, history_sections
from perf.report.sections import Answer, Report, Section, as_text


def history_folder(root: Path) -> Path:
    """Return where the history is: what STEPMARK_HISTORY names, or a folder of the project's results."""
    given = os.environ.get("STEPMARK_HISTORY")
    return Path(given).expanduser() if given else root / "runs" / "history"


def remember(
    folder: Path, session: Session, provenance: Mapping[str, Any], answer: Answer, duet: DuetResult | None
) -> list[Section]:
    """Add a session to the history, and return what the history says now; a problem with it is one of its notes."""
    judged = duet.judgements if duet else {}
    entry = Entry(
        provenance=cast(Provenance, provenance),
        verdict=answer.verdict,
        sentence=answer.sentence,
        software=dict(session.fingerprint.software),
        rates={size: mean_rate(measurement) for size, measurement in session.measurements.items()},
        ratios={size: 1 + judgement.effect.effect_size for size, judgement in judged.items()},
    )
    place = history_of(folder, session.configuration, session.fingerprint)
    try:
        before = list(load(place).values())
        append(place, entry)
    except (PerfError, OSError) as error:
        return [Section(title="History", notes=[f"this session was not added: {error}"])]
    return history_sections([*before, entry])


def history() -> int:
    """Print the history of each workload on this machine, write its page, and return the exit code.

    Raises:
        BaselineError: a file is damaged, or none of ours.
    """
    root = find_root()
    folder = history_folder(shown(root)) / here().fingerprint.slug
    reports: list[Report] = []
    raw: dict[str, Any] = {}
    for place in sorted({path.parent for path in folder.rglob("*.json")}):
        found = load(place)
        last = list(found.values())[-1]
        *since, trend = history_sections(list(found.values()))
        next_step = since[0].title if since else NOTHING_TO_DO
        answer = Answer(verdict=last.verdict, sentence=last.sentence, next_step=next_step)
        name, is_bad = str(place.relative_to(folder)), last.verdict in BAD
        reports.append(Report(title=name, about=str(place), answer=answer, sections=[trend], is_bad=is_bad))
        raw |= {path.name: {"verdict": entry.verdict, "rates": entry.rates} for path, entry in found.items()}
        print(f"{name}\n{as_text([*since, replace(trend, is_detail=False)])}\n")
    if not reports:
        print(f"{folder} has no sessions of this machine yet; each session with pytest adds one")
        return 0
    print("\n".join(publish(reports, raw, shown(root / "runs" / "history"))))
    return 0
