"""What the plots of a page show, from records and judgements; nothing is drawn here."""

from collections.abc import Mapping, Sequence

import numpy as np

from perf.judge.attribution import PhaseDifference
from perf.judge.duets import DuetResult
from perf.judge.stats import Effect, run_rate
from perf.logs.parsing import parse_line
from perf.logs.runlog import LogLine
from perf.records.baselines import Baseline
from perf.records.sessions import Session
from perf.report.sections import Plot, Series

MOST_POINTS = 400  # of a curve that are drawn, spread evenly; the raw data on the page has all


def effects_plot(effects: Mapping[int, Effect], threshold: float, what: str) -> Plot:
    """Return the interval of each batch size beside the threshold, and the slowdown that would have shown."""
    known = {size: effect for size, effect in effects.items() if np.isfinite(effect.low + effect.high)}
    found = list(known.values())
    detectable = [(i, e.minimal_detectable_effect) for i, e in enumerate(found) if e.minimal_detectable_effect < 1]
    series = [
        Series(
            name="change with its 95% interval", style="intervals", y=list(range(len(found))),
            x=[100 * effect.effect_size for effect in found],
            low=[100 * effect.low for effect in found], high=[100 * effect.high for effect in found],
        ),
        Series(
            name="detectable slowdown", style="dots",
            x=[-100 * smallest for _, smallest in detectable], y=[index for index, _ in detectable],
        ),
    ]  # fmt: skip
    return Plot(
        title=f"Change of the rate, {what}",
        caption=f"The interval of each batch size; changes within {threshold:.1%} do not matter",
        x_label="change, % (left is slower)",
        y_label="global batch size",
        series=series,
        categories=[str(size) for size in known],
        band=(-100 * threshold, 100 * threshold),
    )


def pairs_plot(result: DuetResult) -> Plot:
    """Return every pair of a duet in the order of time."""
    series = []
    for size in sorted({pair.global_batch_size for pair in result.pairs}):
        own = [pair for pair in result.pairs if pair.global_batch_size == size]
        changes = [100 * float(np.expm1(pair.effect)) for pair in own]
        series.append(Series(name=str(size), style="dots", x=[pair.ended_s for pair in own], y=changes))
    ends = {pair.start: pair.ended_s for pair in result.pairs}  # of each start the last
    return Plot(
        title="Every pair of runs",
        caption=f"{len(result.pairs)} pairs in {len(ends)} starts of the processes, in the order of time",
        x_label="seconds of the duet",
        y_label="change, %",
        series=series,
        band=(-100 * result.threshold, 100 * result.threshold),
        marks={"end of a start": list(ends.values())},
    )


def phases_plot(phases: Sequence[PhaseDifference], size: int) -> Plot:
    """Return the time of each phase of a step, on both sides."""
    rows = [one for one in phases if one.baseline_s + one.candidate_s > 0]
    y = range(len(rows))
    return Plot(
        title=f"Phases of a step at {size}",
        caption="The median of each phase on both sides; the table below has the numbers",
        x_label="ms per step, each operation timed alone",
        series=[
            Series(name="baseline", style="bars", x=[1e3 * one.baseline_s for one in rows], y=[i - 0.2 for i in y]),
            Series(name="candidate", style="bars", x=[1e3 * one.candidate_s for one in rows], y=[i + 0.2 for i in y]),
        ],
        categories=[one.phase for one in rows],
    )


def session_losses(session: Session) -> list[Plot]:
    """Return the losses of the first run at each batch size."""
    curves = {}
    for size, measurement in session.measurements.items():
        run = measurement.runs[0]
        seconds = np.cumsum(np.multiply(run.step_s, np.diff(run.at_steps, prepend=0)))
        curves[size] = (run.at_steps, seconds.tolist(), run.losses)
    return loss_plots("Loss", curves)


def loss_plots(title: str, curves: Mapping[int, tuple[Sequence[float], ...]]) -> list[Plot]:
    """Return losses against steps, samples and seconds; `curves` are (steps, seconds, losses) by batch size."""
    ends = ", ".join(f"{size} {losses[-1]:.3f}" for size, (_, _, losses) in curves.items())
    lines: dict[str, list[Series]] = {"optimizer steps": [], "samples": [], "seconds": []}
    for size, (steps, seconds, losses) in curves.items():
        for along, x in zip(lines, (steps, [size * step for step in steps], seconds), strict=True):
            lines[along].append(_line(str(size), x, losses))
    return [
        Plot(
            title=f"{title} by {along}",
            caption=f"By global batch size; last values: {ends}",
            x_label=along,
            y_label="loss, nats",
            series=series,
        )
        for along, series in lines.items()
    ]


def loss_differences(session: Session, expected: Mapping[int, Baseline | None]) -> Plot | None:
    """Return the losses less those that the batch size is compared with, where there are any."""
    series = []
    for size, measurement in session.measurements.items():
        if baseline := expected.get(size):
            now, then = measurement.runs[0].losses, baseline.session.measurements[size].runs[0].losses
            differences = [a - b for a, b in zip(now, then, strict=False)]
            series.append(_line(str(size), measurement.runs[0].at_steps[: len(differences)], differences))
    if not series:
        return None
    return Plot(
        title="Loss less the baseline's",
        caption="Difference of the losses from the baseline's, step by step",
        x_label="optimizer steps",
        y_label="difference, nats",
        series=series,
    )


def rates_plot(session: Session, baseline: Baseline | None) -> Plot:
    """Return the rate of every run against the batch size, beside the baseline's runs."""
    series = []
    sessions = {"baseline": baseline.session, "now": session} if baseline else {"now": session}
    for name, one in sessions.items():
        runs = [(size, run) for size, measurement in sorted(one.measurements.items()) for run in measurement.runs]
        rates = [run_rate(run.timed_step_s, size) for size, run in runs]
        series.append(Series(name=name, style="dots", x=[float(size) for size, _ in runs], y=rates))
    return Plot(
        title=f"{session.sample.capitalize()}/sec by batch size",
        caption="The rate of every run, a dot each, at its global batch size",
        x_label="global batch size",
        y_label=f"{session.sample}/sec",
        series=series,
    )


def steps_plot(session: Session) -> Plot:
    """Return the rate of each step of the first run at each batch size, with its warm-up and its log windows."""
    series, warmups, logged = [], set(), set[int]()
    for size, measurement in session.measurements.items():
        run = measurement.runs[0]
        rates = [size / seconds for seconds in run.step_s]
        series.append(_line(str(size), run.at_steps, (100 * np.divide(rates, np.median(rates))).tolist()))
        warmups.add([0, *run.at_steps][run.warmup_steps] + 0.5)
        logged.update(line.global_step for line in map(parse_line, run.lines) if isinstance(line, LogLine))
    return Plot(
        title="Rate of each step, run 1",
        caption="By global batch size; steps of warm-up are not in the times",
        x_label="step",
        y_label="% of the run's median",
        series=series,
        marks={"log line": sorted(logged)[:50], "end of warm-up": sorted(warmups)},
    )


def _line(name: str, x: Sequence[float], y: Sequence[float]) -> Series:
    """Return a curve with at most `MOST_POINTS` of its points, the first and the last among them."""
    places = np.linspace(0, len(y) - 1, min(len(y), MOST_POINTS)).round().astype(int)
    return Series(name=name, x=[float(x[place]) for place in places], y=[float(y[place]) for place in places])
