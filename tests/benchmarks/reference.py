"""The published run of the reference workload beside what this machine does; shown, and never a pass or fail.

Its batch size of 512 did not run. What it would have given follows from the two others, if the time of a step is a
fixed part and a part per sample.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct
from scipy import special

from perf.errors import BaselineError
from perf.judge.stats import CONFIDENCE
from perf.judge.verdicts import mean_rate
from perf.records.sessions import BatchSize, Positive, Session, Text
from perf.report.plots import loss_plots, session_losses
from perf.report.sections import NONE, Plot, Section, number

Rate = Annotated[float, Meta(gt=0, lt=1e15)]  # samples/sec

T = TypeVar("T")


class PublishedRun(Struct, frozen=True, kw_only=True):
    """A run somebody published: shown beside a report, never a pass or fail for another machine."""

    # machine, workload: what ran where
    machine: Text
    workload: Text
    global_batch_size: BatchSize  # samples per step
    samples_per_sec: Rate | None = None  # over the whole run; None if it did not run
    failure: Text = ""  # why it did not run; "" if it did


class PublishedLine(Struct, frozen=True, kw_only=True):
    """A log line of a published run."""

    global_batch_size: BatchSize
    global_step: Positive
    loss: Annotated[float, Meta(ge=-1e9, le=1e9)]
    global_rate_samples_per_sec: Rate  # as printed


def load_published(directory: Path) -> dict[PublishedRun, list[PublishedLine]]:
    """Return every published run in ``*/runs.csv``, with its log in ``*/<workload>.csv``; errors as in `_rows`."""
    found = {}
    for run in [run for path in sorted(directory.glob("*/runs.csv")) for run in _rows(path, PublishedRun)]:
        lines = [line for path in directory.glob(f"*/{run.workload}.csv") for line in _rows(path, PublishedLine)]
        found[run] = [line for line in lines if line.global_batch_size == run.global_batch_size]
    return found


def _rows(path: Path, kind: type[T]) -> list[T]:
    """Return the rows of a table. Raises BaselineError: it is not what it should be."""
    rows = None
    try:
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines(), strict=True)
        # What is empty is not there; numbers are text in a table.
        return [msgspec.convert({k: v for k, v in row.items() if v}, kind, strict=False) for row in rows]
    except (OSError, msgspec.ValidationError, TypeError, ValueError, csv.Error) as error:
        where = f"{path}: line {rows.reader.line_num}" if rows else f"{path}:"
        raise BaselineError(f"{where} cannot be read ({error}); restore it (git checkout -- {path})") from None


class Prediction(Struct, frozen=True, kw_only=True):
    """A rate that follows from two others; samples/sec."""

    global_batch_size: int
    samples_per_sec: float
    # low, high: its interval at `CONFIDENCE`, from how much the log windows vary; of the model it says nothing
    low: float
    high: float
    # fixed_s, per_sample_s: the parts of a step's time
    fixed_s: float
    per_sample_s: float


def window_step_s(lines: Sequence[PublishedLine]) -> list[float]:
    """Return the seconds of a step in each log window but the first, in which a tracker's clock may start late."""
    ends = [line.global_batch_size * line.global_step / line.global_rate_samples_per_sec for line in lines]
    return [float(s) for s in np.diff(ends) / np.diff([line.global_step for line in lines])]


def predict(windows: Mapping[int, Sequence[float]], global_batch_size: int) -> Prediction:
    """Predict the rate at a batch size from the step times of two others, at least two log windows of each.

    The straight line through both means; its error is theirs, with the degrees of freedom of Welch and Satterthwaite.
    """
    (one, first), (two, second) = sorted(windows.items())
    weights = np.array([two - global_batch_size, global_batch_size - one]) / (two - one)
    means = np.array([np.mean(first), np.mean(second)])
    terms = weights**2 * [np.var(side, ddof=1) / len(side) for side in (first, second)]
    freedom = terms.sum() ** 2 / (terms**2 / [len(first) - 1, len(second) - 1]).sum()
    step_s, error = float(weights @ means), float(np.sqrt(terms.sum()))
    half = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    per_sample_s = float((means[1] - means[0]) / (two - one))
    return Prediction(
        global_batch_size=global_batch_size,
        samples_per_sec=global_batch_size / step_s,
        low=global_batch_size / (step_s + half),
        high=global_batch_size / (step_s - half),
        fixed_s=float(means[0] - one * per_sample_s),
        per_sample_s=per_sample_s,
    )


def published_losses(runs: Mapping[int, Sequence[PublishedLine]]) -> list[Plot]:
    """Return the losses of published runs, by batch size."""
    curves = {}
    for size, lines in runs.items():
        steps = [line.global_step for line in lines]
        seconds = [size * line.global_step / line.global_rate_samples_per_sec for line in lines]
        curves[size] = (steps, seconds, [line.loss for line in lines])
    return loss_plots("Published loss", curves)


Published = Mapping[PublishedRun, Sequence[PublishedLine]]  # runs with their logs; of a run that did not start, no line


def published_sections(published: Published, session: Session) -> list[Section]:
    """Return a line for each published run, and both machines as a table and plots with what did not run predicted."""
    predictions = {run: one for run in published if (one := _predicted(run, published))}
    rows = [_published_row(run, lines, predictions.get(run)) for run, lines in published.items()]
    for size, measurement in session.measurements.items():
        run, rate = measurement.runs[0], mean_rate(measurement)
        losses = [number(loss, ".3f") for loss in (run.losses[0], run.losses[-1])]
        rows.append(("here", str(size), number(rate), number(1e3 * size / rate, ".1f"), *losses, str(run.at_steps[-1])))
    both = zip(
        published_losses({run.global_batch_size: lines for run, lines in published.items() if lines}),
        session_losses(session),
        strict=True,
    )
    lines = Section(notes=[_published_line(run) for run in published])
    both_machines = Section(
        title="The published run beside this machine: compare the shapes, not the numbers",
        header=("machine", "size", "samples/sec", "ms/step", "first loss", "last loss", "steps"),
        rows=rows,
        left=("machine",),
        notes=[*_prediction_notes(predictions), f"here: {session.workload}; there: {next(iter(published)).workload}"],
        plots=[plot for pair in both for plot in pair],
        is_detail=True,
    )
    return [lines, both_machines]


def _predicted(run: PublishedRun, published: Published) -> Prediction | None:
    """Return what a run that did not start would have given, from two that did on the same machine."""
    windows = {
        other.global_batch_size: window_step_s(lines)
        for other, lines in published.items()
        if (other.machine, other.workload) == (run.machine, run.workload) and len(lines) > 2
    }
    return predict(windows, run.global_batch_size) if run.samples_per_sec is None and len(windows) == 2 else None


def _published_row(run: PublishedRun, lines: Sequence[PublishedLine], predicted: Prediction | None) -> tuple[str, ...]:
    if rate := run.samples_per_sec:
        losses = [number(line.loss, ".3f") for line in (lines[0], lines[-1])] if lines else [NONE, NONE]
        steps = str(lines[-1].global_step) if lines else NONE
        cells = (number(rate), number(1e3 * run.global_batch_size / rate, ".1f"), *losses, steps)
    elif predicted:
        rate = predicted.samples_per_sec
        cells = (f"~{number(rate)}", f"~{number(1e3 * run.global_batch_size / rate, '.1f')}", NONE, NONE, "0")
    else:
        cells = (NONE, NONE, NONE, NONE, "0")
    return (run.machine, str(run.global_batch_size), *cells)


def _prediction_notes(predictions: Mapping[PublishedRun, Prediction]) -> Iterator[str]:
    for run, one in predictions.items():
        yield f"{run.global_batch_size} did not run there: {run.failure}"
        yield (
            f"~ would have been {one.samples_per_sec:,.0f} samples/sec, 95% interval {one.low:,.0f} to "
            f"{one.high:,.0f}, if the time of a step is a fixed part and a part per sample: {1e3 * one.fixed_s:.1f} ms "
            f"and {1e6 * one.per_sample_s:.1f} us. The interval is from the spread of the log windows of two runs, the "
            "first window left out, as if windows were independent; whether the model holds, two batch sizes cannot "
            "tell."
        )


def _published_line(run: PublishedRun) -> str:
    what = f"{run.samples_per_sec:,.0f} samples/sec" if run.samples_per_sec else f"did not run ({run.failure})"
    return f"reference: {run.workload} on {run.machine}, global batch size {run.global_batch_size}: {what}"
