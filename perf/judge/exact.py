"""What must be the same: the work of a step, and the losses it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from perf.judge.stats import batch_noise
from perf.records.baselines import Expected
from perf.records.counters import StepCounters
from perf.records.fingerprint import Fingerprint

Counts = Mapping[str, Any]
"""Counters as JSON data: numbers by name, and under "ops" how often each operation was dispatched."""

STANDARD_ERRORS = 4.0
"""How far, in standard errors, a loss curve may lie from a stored one that other software or hardware made."""


def counter_differences(baseline: StepCounters, candidate: StepCounters, *, python_calls: bool = True) -> list[str]:
    """Return what changed, by name, such as ``+12 aten::copy_``; operation counts come before totals."""
    return count_differences(asdict(baseline), asdict(candidate), python_calls=python_calls)


def count_differences(baseline: Counts, candidate: Counts, *, python_calls: bool = True) -> list[str]:
    """Return the same for counters as JSON data; those that one of the two lacks are not compared."""
    shared = [name for name in baseline if name in candidate and name != "ops"]
    first = [name for name in ("host_syncs", "optimizer_updates", "parameters") if name in shared]
    rest = [name for name in shared if name not in first and (python_calls or name != "python_calls")]
    changes: dict[str, int] = {name: candidate[name] - baseline[name] for name in first}
    if "ops" in baseline and "ops" in candidate:
        ops = [counters["ops"] for counters in (baseline, candidate)]
        changes |= {name: ops[1].get(name, 0) - ops[0].get(name, 0) for name in sorted({*ops[0], *ops[1]})}
    changes |= {name: candidate[name] - baseline[name] for name in rest}
    return [f"{change:+,} {name}" for name, change in changes.items() if change]


def loss_differences(losses: Sequence[float], expected: Expected, here: Fingerprint | None) -> tuple[str, str]:
    """Return the first problem with a loss curve ("" for none), and how it was compared; `here` made it, if that matters.

    Against a baseline of the same machine and software the curves must be equal to the last digit. Otherwise only rounding may tell them
    apart, and the difference must be small beside what another draw of the batches would make: over all steps, on
    average, within `STANDARD_ERRORS` standard errors of a mean, in either direction.
    """
    steps = min(len(losses), len(expected.losses))
    found, stored = np.asarray(losses[:steps]), np.asarray(expected.losses[:steps])
    source = f"{expected.path} in {steps} steps"
    if not expected.portable and here == expected.fingerprint:
        if (found == stored).all():
            return "", f"equal to the last digit to {source}"
        step = int(np.argmax(found != stored))
        return (
            f"Step={step + 1}: loss {losses[step]!r}, and {expected.losses[step]!r} in {expected.path}, by the same machine and "
            "software: the arithmetic changed"
        ), ""
    tolerance = STANDARD_ERRORS * batch_noise(expected.losses) / np.sqrt(steps)
    difference = float((found - stored).mean())
    how = f"mean difference {difference:+.2g} nats, tolerance {tolerance:.2g}, to {source}"
    if abs(difference) <= tolerance:
        return "", how
    return f"learns {'worse' if difference > 0 else 'better (too good is suspicious too)'}: {how}", how
