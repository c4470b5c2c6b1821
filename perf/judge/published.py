"""Runs that somebody published: shown beside a report, never compared with."""

from __future__ import annotations

import csv
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
        for number, row in enumerate(csv.DictReader(lines), start=2):
            try:
                runs.append(
                    PublishedRun(
                        machine=row["machine"],
                        workload=row["workload"],
                        global_batch_size=int(row["global_batch_size"]),
                        samples_per_sec=float(row["samples_per_sec"]) if row["samples_per_sec"] else None,
                        failure=row["failure"],
                    )
                )
            except (KeyError, TypeError, ValueError) as error:
                raise BaselineError(
                    f"{path}: line {number} cannot be read ({error}); restore it (git checkout -- {path})"
                ) from None
    return runs
