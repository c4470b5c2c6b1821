"""Show what the history says of each workload on each machine."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from msgspec.structs import replace

from perf.app.report import publish
from perf.errors import BaselineError, UsageError
from perf.finding import find_root
from perf.judge.changes import BAD, first_bad
from perf.printable import shown, wrapped
from perf.records.baselines import Baseline
from perf.records.history import alike, load_history
from perf.report.answers import NOTHING_TO_DO
from perf.report.history import history_section, since_when
from perf.report.sections import Answer, Report, as_text


def history_folder() -> Path | None:
    """Return the folder of the history that STEPMARK_HISTORY names, if it does."""
    given = os.environ.get("STEPMARK_HISTORY")
    return Path(given).expanduser() if given else None


def keep_page(page: Path, kept: Path) -> Path:
    """Copy a session's page to its result in the history, with links that hold there, and return the copy."""
    copy, folder = kept.with_suffix(".html"), quote(os.path.relpath(kept.parent, page.parent))
    copy.write_text(page.read_text(encoding="utf-8").replace(f'href="{folder}/', 'href="'), encoding="utf-8")
    return copy


def history(folder: Path | None) -> int:
    """Print the trend of each workload on each machine, write a page of them, and return the exit code.

    Raises:
        UsageError: no folder is given.
        BaselineError: it has no session, or a file in it is damaged or none of ours.
    """
    folder = folder or history_folder()
    if folder is None:
        raise UsageError("which folder? name it, or set STEPMARK_HISTORY, where sessions with pytest then add theirs")
    found = load_history(folder)
    if not found:
        raise BaselineError(f"{folder}: has no session yet; run pytest with STEPMARK_HISTORY={folder}")
    latest = {(one.session.configuration, one.session.fingerprint.slug): one for one in found}
    reports = [_report(alike(found, one.session)) for one in latest.values()]
    for report in reports:
        print(
            f"{wrapped(f'{report.title} {report.about}')}\n{wrapped(str(report.answer))}\n\n{as_text(report.sections)}\n"
        )
    raw: dict[str, Any] = {str(one.path): one.provenance for one in found}
    print("\n".join(publish(reports, raw, shown(find_root() / "runs" / "history"))))
    return 0


def _report(past: Sequence[Baseline]) -> Report:
    """Return what is to be said of sessions of one configuration on one machine, the oldest first."""
    last, sentence, next_step = past[-1], f"the last of {len(past)} sessions", NOTHING_TO_DO
    if (first := first_bad([one.verdict for one in past])) is not None:
        sentence = since_when(past)
        commits = [one.provenance["commit"][:12] for one in past[max(first - 1, 0) : first + 1]]
        next_step = f"stepmark bisect --good {commits[0]} --bad {commits[-1]} --workload {last.session.workload}"
    return Report(
        title=last.session.configuration,
        about=f"on {last.session.fingerprint.slug}",
        answer=Answer(verdict=last.verdict or "MEASURED", sentence=sentence, next_step=next_step),
        sections=[replace(history_section(past), is_detail=False)],
        is_bad=last.verdict in BAD,
    )
