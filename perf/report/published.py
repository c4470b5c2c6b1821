"""The published run and what this machine does, side by side."""

from collections.abc import Iterator, Mapping, Sequence

from perf.judge.prediction import Prediction, predict, window_step_s
from perf.judge.verdicts import mean_rate
from perf.records.baselines import PublishedLine, PublishedRun
from perf.records.sessions import Session
from perf.report.plots import published_losses, session_losses
from perf.report.sections import NONE, Section, number

Published = Mapping[PublishedRun, Sequence[PublishedLine]]  # runs with their logs; of a run that did not start, no line


def published_section(published: Published, session: Session) -> Section:
    """Return both as a table and plots, with what the batch size that did not run would have given there."""
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
    return Section(
        title="The published run beside this machine: compare the shapes, not the numbers",
        header=("machine", "size", "samples/sec", "ms/step", "first loss", "last loss", "steps"),
        rows=rows,
        left=("machine",),
        notes=[*_prediction_notes(predictions), f"here: {session.workload}; there: {next(iter(published)).workload}"],
        plots=[plot for pair in both for plot in pair],
        is_detail=True,
    )


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
            f"~ would have been {one.samples_per_sec:,.0f} samples/sec, 95% interval {one.low:,.0f} to {one.high:,.0f}, "
            f"if the time of a step is a fixed part and a part per sample: {1e3 * one.fixed_s:.1f} ms and "
            f"{1e6 * one.per_sample_s:.1f} us. The interval is from the spread of the log windows of two runs, the first "
            "window left out, as if windows were independent; whether the model holds, two batch sizes cannot tell."
        )
