"""Read training logs and audit their rates."""

from __future__ import annotations

import io
import json
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from perf.errors import DataError
from perf.logs.audit import RunAudit, audit_run
from perf.logs.runlog import DamagedLine, parse_log, read_lines
from perf.printable import printable
from perf.report.audit import audit_report

EXIT_AGREE, EXIT_DAMAGED, EXIT_DISAGREE = 0, 5, 6

MOST_DAMAGED = 100
"""Damaged lines that are shown; the others are counted."""


@dataclass(kw_only=True, slots=True)
class _Findings:
    """What was found beside the runs, over all logs."""

    damaged: list[tuple[str, DamagedLine]] = field(default_factory=list)
    num_damaged: int = 0
    disagree: bool = False
    unread: list[str] = field(default_factory=list)

    def add_damaged(self, name: str, line: DamagedLine) -> None:
        self.num_damaged += 1
        if len(self.damaged) < MOST_DAMAGED:
            self.damaged.append((name, line))


def import_log(files: Sequence[Path], *, json: bool = False) -> int:
    """Print what is found in logs, and return the exit code: 0 all agree, 5 damaged lines, 6 rates disagree.

    Args:
        files: logs; ``-`` is standard input.
        json: whether to print JSON and no tables.

    Raises:
        DataError: a log cannot be read or has no line of a run; the other logs were printed before.
    """
    findings = _Findings()
    audits = _audits(files, findings)
    if json:
        _print_json(audits, findings)
    else:
        _print_text(audits, findings, several=len(files) > 1)
    if findings.unread:
        raise DataError("; ".join(findings.unread))
    if findings.disagree:
        return EXIT_DISAGREE
    return EXIT_DAMAGED if findings.num_damaged else EXIT_AGREE


def _audits(files: Sequence[Path], findings: _Findings) -> Iterator[tuple[str, RunAudit]]:
    """Yield the audit of each run with the name of its log, as the logs are read.

    Add what else there is to `findings`.
    """
    for file in files:
        name = "standard input" if str(file) == "-" else str(file)
        is_log = False
        try:
            with _opened(file) as stream:
                for found in parse_log(read_lines(stream)):
                    is_log = True
                    if isinstance(found, DamagedLine):
                        findings.add_damaged(name, found)
                        continue
                    audit = audit_run(found)
                    findings.disagree |= bool(audit.problems)
                    yield name, audit
            if not is_log:
                raise DataError(
                    f"{printable(name)}: has no line like 'Step=100, Loss=..., Rate=...' in UTF-8; give a training log"
                )
        except (DataError, OSError) as error:
            findings.unread.append(str(error))


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """Open a log, which collects the output of many programs: a byte that is not UTF-8 must not hide other lines."""
    if str(file) == "-":
        if sys.stdin is None:
            raise DataError("standard input: is closed; give a log file, or pipe a log in")
        stream = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", errors="replace")
        try:
            yield stream
        finally:
            stream.detach()  # standard input stays open
        return
    if not stat.S_ISREG(file.stat().st_mode):
        raise DataError(
            f"{printable(str(file))}: is a directory, a device or a pipe, which may never end; give a "
            "log file, or - to "
            "read standard input"
        )
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        yield stream


def _print_text(audits: Iterator[tuple[str, RunAudit]], findings: _Findings, *, several: bool) -> None:
    separator = ""
    for name, audit in audits:
        print(f"{separator}{audit_report(audit, where=name if several else '')}")
        separator = "\n"
    for name, line in findings.damaged:
        where = f"{printable(name)}: " if several else ""
        print(f"{separator}{where}Line {line.number}: {line.reason}")
    if findings.num_damaged > len(findings.damaged):
        print(f"{separator}{findings.num_damaged - len(findings.damaged):,} more damaged lines are not shown.")


def _print_json(audits: Iterator[tuple[str, RunAudit]], findings: _Findings) -> None:
    """Print one JSON object, run by run."""
    print('{"runs": [', end="")
    separator = "\n"
    for name, audit in audits:
        print(separator + json.dumps({"file": name, **audit.as_json()}, indent=2, allow_nan=False), end="")
        separator = ",\n"
    rest = {
        "damaged_lines": [{"file": n, "line_number": d.number, "reason": d.reason} for n, d in findings.damaged],
        "num_damaged_lines": findings.num_damaged,
        "unread": findings.unread,
    }
    print("],\n" + json.dumps(rest, indent=2, allow_nan=False).removeprefix("{\n"))
