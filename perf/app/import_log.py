"""Read training logs and audit their rates."""

import json
import math
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from perf.errors import DataError, UsageError
from perf.logs.audit import RunAudit, audit_run
from perf.logs.parsing import FORMATS, DamagedLine, Format, find_format, history_lines, parse_log, read_lines
from perf.logs.runlog import LoggedRun
from perf.printable import printable, wrapped
from perf.report.sections import NONE, Section, number, text_table

EXIT_AGREE, EXIT_DAMAGED, EXIT_DISAGREE = 0, 5, 6

LARGEST_STATE = 2**28  # characters of a trainer_state.json that are read
MOST_DAMAGED = 100  # damaged lines that are shown; the others are counted


def import_log(files: Sequence[Path], *, form: str | None = None, as_json: bool = False) -> int:
    """Print what is found in logs, run by run, and return the exit code: 0 agree, 5 damaged lines, 6 rates disagree.

    ``-`` is standard input. `form` is a name or a pattern; without it, each log has the format of its first line that
    has one. Raises UsageError: there is no such format. Raises DataError, after the others were printed: a log cannot
    be read, or has no line of a run.
    """
    try:
        formats = [find_format(form)] if form is not None else [*FORMATS.values()]
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    damaged: list[dict[str, Any]] = []
    unread: list[str] = []
    runs: list[dict[str, Any]] = []
    num_damaged, disagree = 0, False

    def show(name: str, text: str) -> None:
        if not as_json:
            print((f"{printable(name)}: " if len(files) > 1 else "") + text)

    for name, found in _found(files, formats, unread):
        if isinstance(found, DamagedLine):
            num_damaged += 1
            if num_damaged <= MOST_DAMAGED:
                damaged.append({"file": name, "line_number": found.number, "reason": found.reason})
            continue
        audit = audit_run(found)
        disagree |= bool(audit.problems)
        if as_json:
            runs.append({"file": name, **audit.as_json()})
        show(name, audit_report(audit) + "\n")
    for line in damaged:
        show(line["file"], f"Line {line['line_number']}: {line['reason']}")
    if as_json:
        rest = {"damaged_lines": damaged, "num_damaged_lines": num_damaged, "unread": unread}
        print(json.dumps({"runs": runs, **rest}, indent=2, allow_nan=False))
    elif num_damaged > len(damaged):
        print(f"{num_damaged - len(damaged):,} more damaged lines are not shown.")
    if unread:
        raise DataError("; ".join(unread))
    return EXIT_DISAGREE if disagree else EXIT_DAMAGED if num_damaged else EXIT_AGREE


def _found(
    files: Sequence[Path], formats: Sequence[Format], unread: list[str]
) -> Iterator[tuple[str, LoggedRun | DamagedLine]]:
    for file in files:
        name = "standard input" if str(file) == "-" else str(file)
        known = " or ".join(form.name for form in formats)
        problem = f"has no line in the format {known}, in UTF-8; give a training log, or its --format"
        try:
            with _opened(file) as stream:
                history = file.suffix == ".json" and history_lines(stream.read(LARGEST_STATE))
                if history == []:  # no trainer_state.json, but perhaps lines of JSON
                    stream.seek(0)
                for found in parse_log(history or read_lines(stream), formats):
                    problem = ""
                    yield name, found
        except OSError as error:
            problem = error.strerror or str(error)
        if problem:
            unread.append(printable(f"{name}: {problem}"))


def _opened(file: Path) -> TextIO:
    """Open a log, which collects the output of many programs: a byte that is not UTF-8 must not hide other lines."""
    if str(file) == "-":
        if sys.stdin is None:
            raise OSError("is closed; give a log file, or pipe a log in")
        return open(sys.stdin.fileno(), encoding="utf-8-sig", errors="replace", closefd=False)
    if not stat.S_ISREG(file.stat().st_mode):
        needed = "give a log file, or - to read standard input"
        raise OSError(f"is a directory, a device or a pipe, which may never end; {needed}")
    return file.open(encoding="utf-8-sig", errors="replace")


def audit_report(audit: RunAudit) -> str:
    """Return the audit of one run."""
    run, num_lines = audit.run, len(audit.lines)
    title = f"Run from line {run.first_line_number}"
    if run.refused:
        return (
            f"{title}: did not start: its checkpoint was at step {run.refused.global_step} and its last step "
            f"{run.refused.max_steps}; it needed a different directory, more steps, or a fresh start."
        )
    evaluation = f", {run.num_evaluation_lines} of evaluation" if run.num_evaluation_lines else ""
    if not audit.lines:
        return wrapped("; ".join([f"{title}: no step line{evaluation}", *audit.notes]))
    size = f"global batch size {audit.global_batch_size}, " if audit.global_batch_size else ""
    about = printable(re.sub(r"(.{30}).+", r"\1...", run.format))
    verdict = [f"- {problem}" for problem in audit.problems]
    if run.format == "cerebras":
        about = f"{'begun' if audit.start_is_certain else 'assumed to begin'} at step {audit.start_step}"
        unchecked = sum(check.agrees is None for check in audit.lines)
        rest = f"; {unchecked} could not be checked" if unchecked else ""
        verdict = verdict or [
            f"{num_lines - unchecked} of {num_lines} rates agree with the GlobalRate column within what rounding and "
            f"the time between readings of the clock explain{rest}."
        ]
    parts = [
        wrapped(f"{title}: {size}{about}, {num_lines} line{'s' if num_lines > 1 else ''}{evaluation}"),
        _audit_table(audit),
        str(run.end) if run.end else "No end line: the run was cut off, or is still running.",
        *(["Problems:"] if audit.problems else []),
        *map(wrapped, [*verdict, *(f"Note: {note}." for note in audit.notes)]),
    ]
    return "\n".join(parts)


def _audit_table(audit: RunAudit) -> str:
    rows: list[list[str]] = []
    for check in audit.lines:
        line, rate = check.line, check.recomputed_rate
        columns = {
            "step": (line.global_step, "d"), "loss": (line.loss, ".5f"), "global rate": (line.global_rate, ".2f"),
            "rate": (line.rate, ".2f"), "recomputed": (rate, ".2f"), "off by": (line.rate - (rate or math.nan), "+.3f"),
            "explained": (check.explained, ".3f"), "seconds/step": (line.step_s, ".4g"),
            "tokens/sec/device": (line.tokens_per_sec, ",.0f"), "samples": (line.samples, ",d"),
            "size": (line.global_batch_size, "d"), "epoch": (line.epoch, ".4g"),
        }  # fmt: skip
        cells = [
            NONE if value is None or (math.isnan(value) and name != "loss") else number(value, style)
            for name, (value, style) in columns.items()
        ]
        rows.append([*cells, {True: "yes", False: "NO", None: NONE}[check.agrees]])
    header, cells_shown, _ = Section(header=[*columns, "agrees"], rows=rows).shown()
    return text_table(header, cells_shown)
