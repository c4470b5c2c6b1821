"""Comparisons without a verdict: the work of a step, its losses, and whether a session could become a baseline."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec.structs import asdict

from perf.judge.stats import batch_noise
from perf.records.baselines import Baseline
from perf.records.sessions import Session, differences

Counts = Mapping[str, Any]
"""Counters as JSON data: numbers by name, and under "ops" the number of dispatches of each operation."""

STANDARD_ERRORS = 4.0
"""The largest mean difference from a stored loss curve of different software or hardware, in standard errors."""

LEAST_RUNS = 3  # runs of each batch size a baseline needs, to know its own spread


def counter_differences(baseline: Counts, candidate: Counts, *, python_calls: bool = True) -> list[str]:
    """Return the differences by name, such as ``+12 aten::copy_``; operations come before totals.

    A counter that one side lacks is not compared.
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
    counters = [asdict(one.runs[0].counters) for one in (baseline, candidate)]
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
    same_cut = now.micro_batch_size == before.micro_batch_size
    exact = same_cut and not expected.portable and session.fingerprint == expected.session.fingerprint
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
