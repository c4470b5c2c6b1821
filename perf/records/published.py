"""Runs that somebody published: shown beside a report, never compared with."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perf.errors import BaselineError


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRun:
    """A run somebody published: shown beside a report, never a pass or fail for another machine.

    Attributes:
        machine, workload: what ran where.
        global_batch_size: samples per step.
        samples_per_sec: its rate over the whole run; None if it did not run.
        failure: why not; empty if it did.
    """

    machine: str
    workload: str
    global_batch_size: int
    samples_per_sec: float | None
    failure: str


def load_published(directory: Path) -> list[PublishedRun]:
    """Return every published run under `directory`, from the files ``*/runs.csv``.

    Raises:
        BaselineError: a file is not what it should be.
    """
    runs = []
    for path in sorted(directory.glob("*/runs.csv")):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BaselineError(f"{path}: cannot be read ({error}); restore it (git checkout -- {path})") from None
        rows = csv.DictReader(lines, strict=True)
        try:
            runs += [_run(row) for row in rows]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise BaselineError(
                f"{path}: line {rows.reader.line_num} cannot be read ({error}); restore it (git checkout -- {path})"
            ) from None
    return runs


def _run(row: Mapping[str, str]) -> PublishedRun:
    size, rate = int(row["global_batch_size"]), float(row["samples_per_sec"] or "nan")
    if not 1 <= size < 10**8:
        raise ValueError(f"global_batch_size {size}: a number of samples is needed")
    if row["samples_per_sec"] and not 0 < rate < 1e15:
        raise ValueError(f"samples_per_sec {rate}: a positive rate is needed, or nothing")
    return PublishedRun(
        machine=row["machine"],
        workload=row["workload"],
        global_batch_size=size,
        samples_per_sec=rate if row["samples_per_sec"] else None,
        failure=row["failure"],
    )
