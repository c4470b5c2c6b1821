"""Leave what was said where people look: in files, and on the pages of a CI; and tell a result again."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from perf.errors import BaselineError
from perf.finding import find_root
from perf.printable import emphasized, shown, wrapped
from perf.records.baselines import KEY, LATEST_RESULT
from perf.records.documents import ADVICE, read_json
from perf.report.page import as_html
from perf.report.sections import Report, as_markdown, as_text


def publish(reports: Sequence[Report], raw: Mapping[str, Any], stem: Path) -> list[str]:
    """Write ``<stem>.html`` and ``<stem>.md``, the latter also into the job's summary of GitHub Actions.

    Returns the lines to show: where the page is, and what GitHub shows beside a pull request.

    Raises:
        OSError: a file could not be written.
    """
    page = stem.with_suffix(".html")
    stem.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(as_html(reports, raw, stem.parent), encoding="utf-8")
    ordered = sorted(reports, key=lambda report: not report.is_bad)
    text = "\n".join(as_markdown(report, str(page)) for report in ordered)
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
    for character in "%\r\n:,":  # the percent sign first
        title = title.replace(character, f"%{ord(character):02X}")
    for character in "%\r\n":
        text = text.replace(character, f"%{ord(character):02X}")
    return f"::{level} title={title}::{text}"


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
            found = msgspec.convert(raw["reports"] if isinstance(raw, dict) else None, list[Report])
        except (KeyError, msgspec.ValidationError) as error:
            raise BaselineError(f"{path}: has no whole report ({error}); {ADVICE}") from None
        if not found:
            raise BaselineError(f"{path}: says nothing yet: its session was ended early; measure again")
        try:
            texts = [f"{wrapped(f'Next: {one.answer.next_step}')}\n\n{as_text(one.sections)}\n" for one in found]
            lines = publish(found, raw, path.with_suffix(""))
        except (IndexError, ValueError) as error:
            raise BaselineError(f"{path}: a table or a plot of it is not whole ({error}); {ADVICE}") from None
        for one, text in zip(found, texts, strict=True):
            print(f"{wrapped(one.title)}\n{emphasized(wrapped(one.answer.line), is_bad=one.is_bad)}\n{text}")
        print("\n".join(lines))
    return 0
