"""Runs that somebody published: shown beside a report, never compared with."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from perf.errors import BaselineError
from perf.records.fields import BatchSize, Positive, Text

T = TypeVar("T")

Rate = Annotated[float, Meta(gt=0, lt=1e15)]  # samples/sec


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRun:
    """A run somebody published: shown beside a report, never a pass or fail for another machine."""

    # machine, workload: what ran where
    machine: Text
    workload: Text
    global_batch_size: BatchSize  # samples per step
    # its rate over the whole run; None if it did not run
    samples_per_sec: Rate | None = None
    failure: Text = ""  # why it did not run; "" if it did


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedLine:
    """A log line of a published run."""

    global_batch_size: BatchSize
    global_step: Positive
    loss: float
    # rate_samples_per_sec, global_rate_samples_per_sec: as printed
    rate_samples_per_sec: Rate
    global_rate_samples_per_sec: Rate


def load_published(directory: Path) -> list[PublishedRun]:
    """Return every published run under `directory`, from the files ``*/runs.csv``; errors as in `_rows`."""
    return [run for path in sorted(directory.glob("*/runs.csv")) for run in _rows(path, PublishedRun)]


def load_published_lines(directory: Path, run: PublishedRun) -> list[PublishedLine]:
    """Return the log of a published run, from the files ``*/<workload>.csv``; errors as in `_rows`."""
    lines = [line for path in directory.glob(f"*/{run.workload}.csv") for line in _rows(path, PublishedLine)]
    return [line for line in lines if line.global_batch_size == run.global_batch_size]


def _rows(path: Path, kind: type[T]) -> list[T]:
    """Return the rows of a table.

    Raises:
        BaselineError: it is not what it should be.
    """
    where = f"{path}:"
    try:
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines(), strict=True)
        where = f"{path}: a line"
        # What is empty is not there; numbers are text in a table.
        return [msgspec.convert({k: v for k, v in row.items() if v}, kind, strict=False) for row in rows]
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise BaselineError(f"{where} cannot be read ({error}); restore it (git checkout -- {path})") from None
