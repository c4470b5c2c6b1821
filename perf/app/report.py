"""Leave what was said where people look: in files, and on the pages of a CI; tell a result again, and the history."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from perf.errors import BaselineError, UsageError
from perf.finding import find_root
from perf.judge.changes import BAD, bad_streak
from perf.printable import emphasized, shown, wrapped
from perf.records.baselines import KEY, LATEST_RESULT, Baseline
from perf.records.documents import ADVICE, read_json
from perf.records.history import alike, load_history
from perf.report.answers import NOTHING_TO_DO
from perf.report.history import history_section, since_when
from perf.report.sections import Answer, Report, as_markdown, as_text

_Reports = Annotated[list[Report], msgspec.Meta(min_length=1)]  # none, of a session that was ended early, is refused


def publish(reports: Sequence[Report], raw: Mapping[str, Any], stem: Path) -> list[str]:
    """Write ``<stem>.html`` and ``<stem>.md``, the latter also into the job's summary of GitHub Actions.

    The worst workload comes first. Returns the lines to show: the page, and what GitHub shows beside a pull request.

    Raises:
        OSError: a file could not be written.
    """
    from perf.report.page import as_html  # only here: drawing takes half a second to import

    page, reports = stem.with_suffix(".html"), sorted(reports, key=lambda report: not report.is_bad)
    stem.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(as_html(reports, raw, stem.parent), encoding="utf-8")
    text = "\n".join(as_markdown(report, str(page)) for report in reports)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    if to := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(to).open("a", encoding="utf-8") as file:
            file.write(text)
    lines = [f"page: {page}"]
    for report in reports if "GITHUB_ACTIONS" in os.environ else ():
        lines += [_annotation("error", report.title, report.answer.line)] * report.is_bad
        lines += [_annotation("warning", report.title, warning) for warning in report.warnings]
    return lines


def _annotation(level: str, title: str, text: str) -> str:
    """Return a command of GitHub Actions; nothing in a text can end it or begin another."""
    escapes = {ord("%"): "%25", ord("\r"): "%0D", ord("\n"): "%0A"}
    title = title.translate({**escapes, ord(":"): "%3A", ord(","): "%2C"})
    return f"::{level} title={title}::{text.translate(escapes)}"


def _text(report: Report) -> str:
    what, said = wrapped(f"{report.title} {report.about}"), wrapped(report.answer.line)
    next_step, sections = wrapped(f"Next: {report.answer.next_step}"), as_text(report.sections)
    return f"{what}\n{emphasized(said, is_bad=report.is_bad)}\n{next_step}\n\n{sections}\n"


def report(*, runs: Sequence[Path]) -> int:
    """Print what each result says, write its page beside it, and return the exit code.

    `runs` are files of a session, or of ``duet --json``; without any, the latest session's.

    Raises:
        BaselineError: a file is not there, damaged, or not one of ours.
        OSError: a page could not be written.
    """
    for path in runs or [shown(find_root()) / LATEST_RESULT]:
        raw: Any = read_json(path).get(KEY)
        try:
            found = msgspec.convert(raw["reports"] if isinstance(raw, dict) else None, _Reports)
            texts = list(map(_text, found))
            lines = publish(found, raw, path.with_suffix(""))
        # Of a table or a plot that is not whole; the third by matplotlib.
        except (ArithmeticError, LookupError, UnboundLocalError, ValueError, msgspec.ValidationError) as error:
            raise BaselineError(f"{path}: has no whole report ({error}); {ADVICE}") from None
        print("\n".join([*texts, *lines]))
    return 0


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
    print("\n".join(map(_text, reports)))
    raw = {str(one.path): one.provenance for one in found}
    print("\n".join(publish(reports, raw, shown(find_root() / "runs" / "history"))))
    return 0


def _report(past: Sequence[Baseline]) -> Report:
    last, section = past[-1], replace(history_section(past), is_detail=False)
    sentence, next_step = since_when(past) or f"the last of {len(past)} sessions", NOTHING_TO_DO
    if streak := bad_streak([one.verdict for one in past]):
        good, bad = (past[index] for index in streak)  # -1, of no good one, is the last
        next_step = f"read {shown(bad.path.with_suffix('.html'))}"
        commits = [one.provenance["commit"][:12] for one in (good, bad)]
        if streak[0] >= 0 and commits[0] != commits[1] and not (good.rerun_problem or bad.rerun_problem):
            what = f"--workload {last.session.workload}"
            what += f" --precision {last.session.precision}" if last.session.precision else ""
            next_step = f"stepmark bisect --good {commits[0]} --bad {commits[1]} {what}"
    return Report(
        title=last.session.configuration,
        about=f"on {last.session.fingerprint.slug}",
        answer=Answer(verdict=last.verdict or "MEASURED", sentence=sentence, next_step=next_step),
        sections=[section],
        is_bad=last.verdict in BAD,
    )
