"""Runs that somebody published: shown beside a report, never compared with."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from perf.errors import BaselineError
from perf.records.fields import BatchSize, Text


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRun:
    """A run somebody published: shown beside a report, never a pass or fail for another machine."""

    # machine, workload: what ran where
    machine: Text
    workload: Text
    global_batch_size: BatchSize  # samples per step
    # its rate over the whole run; None if it did not run
    samples_per_sec: Annotated[float, Meta(gt=0, lt=1e15)] | None = None
    failure: Text = ""  # why it did not run; "" if it did


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
            # What is empty is not there; numbers are text in a table.
            runs += [msgspec.convert({k: v for k, v in row.items() if v}, PublishedRun, strict=False) for row in rows]
        except (msgspec.ValidationError, TypeError, ValueError, csv.Error) as error:
            raise BaselineError(
                f"{path}: line {rows.reader.line_num} cannot be read ({error}); restore it (git checkout -- {path})"
            ) from None
    return runs
