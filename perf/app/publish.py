"""Leave what was said where people look: a page and a summary in files, and on the pages of a CI."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.report.model import Report
from perf.report.page import as_html
from perf.report.sections import as_markdown


def publish(reports: Sequence[Report], raw: Mapping[str, Any], stem: Path) -> list[str]:
    """Write ``<stem>.html`` and ``<stem>.md``, the latter also into the job's summary of GitHub Actions.

    Returns the lines to show: where the page is, and what GitHub shows beside a pull request.

    Raises:
        OSError: a file could not be written.
    """
    page = stem.with_suffix(".html")
    stem.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(as_html(reports, raw), encoding="utf-8")
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
