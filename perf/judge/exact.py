"""Comparisons without a verdict: the work of a step, its losses, and whether a session could become a baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec.structs import asdict

from perf.judge.stats import batch_noise
from perf.records.baselines import Baseline
from perf.records.sessions import MeasuredRun, Session, differences, is_command

# The largest mean difference from a stored loss curve of different software or hardware, in standard errors.
STANDARD_ERRORS = 4.0
# How often losses of a command that differ from run to run are called changed although they are not.
LOSS_ERROR = 0.001
# The largest difference between printed times and our clock's: a fraction, and what the way of a line may take.
CLOCK_TOLERANCE, CLOCK_MOMENT_S = 0.02, 0.05
LEAST_RUNS = 3  # runs of each batch size a baseline needs, to know its own spread


def counter_differences(
    baseline: Mapping[str, Any], candidate: Mapping[str, Any], *, python_calls: bool = True
) -> list[str]:
    """Return the differences by name, such as ``+12 aten::copy_``; operations come before totals.

    Counters are numbers by name, and under "ops" those of each operation. What one side lacks is not compared.
    """
    shared = [name for name in baseline if name in candidate and name != "ops"]
    first = [name for name in ("host_syncs", "optimizer_updates", "parameters") if name in shared]
    rest = [name for name in shared if name not in first and (python_calls or name != "python_calls")]
    changes: dict[str, int] = {name: candidate[name] - baseline[name] for name in first}
    if "ops" in baseline and "ops" in candidate:
        ops = [counters["ops"] for counters in (baseline, candidate)]
        changes |= {name: ops[1].get(name, 0) - ops[0].get(name, 0) for name in sorted({*ops[0], *ops[1]})}
    changes |= {name: candidate[name] - baseline[name] for name in rest}
    return [f"{change:+,} {name}" for name, change in changes.items() if change]


def work_changes(before: Session, now: Session, size: int) -> list[str]:
    """Return the same of two sessions at a batch size, and micro-batches; Python calls only of the same Python."""
    baseline, candidate = (session.measurements[size] for session in (before, now))
    cuts = [{"micro_batch_size": one.micro_batch_size} for one in (baseline, candidate)]
    counters = [asdict(found) if (found := one.runs[0].counters) else {} for one in (baseline, candidate)]
    return differences(*cuts) + counter_differences(*counters, python_calls=before.python == now.python)


def loss_differences(session: Session, size: int, expected: Baseline) -> tuple[str, str]:
    """Return the first problem with what the steps returned ("" for none), and how their losses were compared.

    With the same machine, software and micro-batch size the curves must be equal to the last digit. Otherwise, and with
    a portable baseline, rounding differs: the mean difference over all steps must lie within `STANDARD_ERRORS` standard
    errors of the mean that other draws of the batches would give, in either direction. Curves that one side lacks are a
    problem.
    """
    now, before = (source.measurements[size] for source in (session, expected.session))
    curves, known = now.runs[0].curves, before.runs[0].curves
    if odd := sorted(curves.keys() ^ known.keys()):
        names = f"the steps return {', '.join(curves)}, and {', '.join(known)} in {expected.path}"
        return f"{names}: {odd[0]} is new or gone", ""
    is_same = session.fingerprint == expected.session.fingerprint
    if is_command(session.workload):
        problem, how = printed_loss_difference(*([run.losses for run in one.runs] for one in (before, now)))
        return problem and f"{problem}, beside {expected.path}", f"{how} {expected.path}"
    exact = is_same and not expected.portable and now.micro_batch_size == before.micro_batch_size
    hows = []
    for name, curve in curves.items():
        steps = min(len(curve), len(known[name]))
        found, stored = np.asarray(curve[:steps]), np.asarray(known[name][:steps])
        source = f"{expected.path} in {steps} steps"
        if exact:
            if not (found == stored).all():
                step = int(np.argmax(found != stored))
                values = f"the {name} is {curve[step]!r}, and {known[name][step]!r} in {expected.path}"
                return f"Step={step + 1}: {values}, from the same machine and software: the arithmetic changed", ""
            hows.append(f"equal to the last digit to {source}")
            continue
        tolerance = STANDARD_ERRORS * batch_noise(known[name]) / np.sqrt(steps)
        difference = float((found - stored).mean())
        hows.append(f"mean difference {difference:+.2g} (tolerance {tolerance:.2g}) from {source}")
        if not abs(difference) <= tolerance:
            return f"the {name} is {'higher' if difference > 0 else 'lower'} than the stored one: {hows[-1]}", hows[-1]
    return "", hows[0]


def printed_loss_difference(
    baseline: Sequence[Sequence[float]], candidate: Sequence[Sequence[float]]
) -> tuple[str, str]:
    """Return how the losses that runs of a command print differ from the baseline's ("": not), and how that was seen.

    Where all runs of the baseline print the same, all must. Where they do not, the runs' means over their lines are
    compared by Student's t-test. Two runs that differ, one of each side, tell nothing.
    """
    lengths = sorted({*map(len, (*baseline, *candidate))})
    if len(lengths) > 1:
        return f"runs print {lengths[0]} or {lengths[-1]} losses, not the same number", ""
    first = tuple(baseline[0])
    others = [run for run in map(tuple, candidate) if run != first]
    if len({*map(tuple, baseline)}) == 1:
        if not others:
            return "", f"equal in all {len(candidate)} runs to"
        if len(baseline) == 1:
            return "", "not known from one run of"
        line, loss = min((i, loss) for run in others for i, loss in enumerate(run) if loss != first[i])
        return f"the loss of line {line + 1} is {loss!r}, and {first[line]!r} in all {len(baseline)} runs", ""
    from scipy import stats

    before, now = ([float(np.mean(run)) for run in side] for side in (baseline, candidate))
    p, change = float(stats.ttest_ind(before, now).pvalue), float(np.mean(now) - np.mean(before))
    how = f"mean difference {change:+.2g} (p = {p:.2g}, runs vary by {np.std(before, ddof=1):.2g}) from"
    problem = f"the mean loss is {'higher' if change > 0 else 'lower'}: {how} {len(baseline)} runs"
    return problem if p < LOSS_ERROR else "", how


def clock_problem(runs: Sequence[MeasuredRun]) -> str:
    """Return that the rates that runs of a command print are not our clock's, or that they print none, or nothing.

    The first log window, in which the command starts, does not count.
    """
    ours = [float(np.dot(run.step_s[1:], np.diff(run.steps))) for run in runs]
    if not all(run.printed_s for run in runs):
        return "the log's own rates are not compared with our clock: its lines do not tell the time of a step"
    less = float(np.median([seconds / sum(run.printed_s[1:]) - 1 for run, seconds in zip(runs, ours, strict=True)]))
    if abs(less) <= CLOCK_TOLERANCE + CLOCK_MOMENT_S / min(ours):
        return ""
    return f"DISAGREES with our clock: the rates in its log are {abs(less):.1%} {'higher' if less > 0 else 'lower'}"


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
        if not is_command(session.workload) and any(run.curves != runs[0].curves for run in runs):
            return f"the runs at {size} do not have the same losses; measure again"
    return ""
