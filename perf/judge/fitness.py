"""Whether a session is fit to become a baseline, and its times to be compared with later."""

from dataclasses import replace

from perf.judge.stats import compare_rates, run_rate
from perf.records.sessions import Session

LEAST_RUNS = 3  # runs of each batch size a baseline needs, to know its own spread

MOST_HIDDEN = 0.5
"""The largest slowdown that may hide behind stored times: beside themselves they must show at least this one."""


def session_refusal(session: Session) -> str:
    """Return what makes a session unfit for any baseline, or nothing."""
    if session.failures:
        size, reason = next(iter(session.failures.items()))
        return f"global batch size {size} failed ({reason}); a whole session is needed; measure again"
    for size, measurement in session.measurements.items():
        runs = measurement.runs
        if len(runs) < LEAST_RUNS:
            return f"has {len(runs)} runs at {size}, and {LEAST_RUNS} are needed; measure again with --perf-runs 6"
        if any(run.counters != runs[0].counters for run in runs):
            return f"the runs at {size} do not do the same work in a step; measure again"
        if any(run.curves != runs[0].curves for run in runs):
            return f"the runs at {size} do not have the same losses; measure again"
    return ""


def with_fitness(session: Session) -> Session:
    """Return a session that says in `times_unfit` why its times are too noisy to compare with later, if they are."""
    for size, measurement in session.measurements.items():
        rates = [run_rate(run.timed_step_s, size) for run in measurement.runs]
        if len(rates) < LEAST_RUNS:
            continue  # it cannot become a baseline at all
        hidden = compare_rates(rates, rates, family_size=len(session.measurements)).minimal_detectable_effect
        if hidden > MOST_HIDDEN:
            unfit = (
                f"the rates at {size} spread so much ({min(rates):,.0f} to {max(rates):,.0f} samples/sec) that a "
                f"slowdown of {hidden:.0%} could hide behind them"
            )
            return replace(session, times_unfit=unfit)
    return replace(session, times_unfit="")
