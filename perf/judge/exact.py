"""Exact comparisons: the work of a step, and its losses."""

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
"""Counters as JSON data: numbers by name, and under "ops" the number of dispatches of each operation."""

STANDARD_ERRORS = 4.0
"""The largest mean difference from a stored loss curve of different software or hardware, in standard errors."""


def counter_differences(baseline: StepCounters, candidate: StepCounters, *, python_calls: bool = True) -> list[str]:
    """Return the differences by name, such as ``+12 aten::copy_``; operations come before totals."""
    return count_differences(asdict(baseline), asdict(candidate), python_calls=python_calls)


def count_differences(baseline: Counts, candidate: Counts, *, python_calls: bool = True) -> list[str]:
    """Return the same for counters as JSON data; a counter that one side lacks is not compared."""
    shared = [name for name in baseline if name in candidate and name != "ops"]
    first = [name for name in ("host_syncs", "optimizer_updates", "parameters") if name in shared]
    rest = [name for name in shared if name not in first and (python_calls or name != "python_calls")]
    changes: dict[str, int] = {name: candidate[name] - baseline[name] for name in first}
    if "ops" in baseline and "ops" in candidate:
        ops = [counters["ops"] for counters in (baseline, candidate)]
        changes |= {name: ops[1].get(name, 0) - ops[0].get(name, 0) for name in sorted({*ops[0], *ops[1]})}
    changes |= {name: candidate[name] - baseline[name] for name in rest}
    return [f"{change:+,} {name}" for name, change in changes.items() if change]


def loss_differences(
    curves: Mapping[str, Sequence[float]], expected: Expected, here: Fingerprint | None
) -> tuple[str, str]:
    """Return the first problem with what the steps returned ("" for none), and how their losses were compared.

    With the same machine and software (`here`; None if that does not apply) the curves must be equal to the last digit.
    Otherwise rounding differs, and the mean difference over all steps must lie within `STANDARD_ERRORS` standard
    errors of the mean that other draws of the batches would give, in either direction. Curves that one side lacks are
    a problem.
    """
    if odd := sorted(curves.keys() ^ expected.curves.keys()):
        return (
            f"the steps return {', '.join(curves)}, and {', '.join(expected.curves)} in {expected.path}: "
            f"{odd[0]} is new or gone",
            "",
        )
    exact = not expected.portable and here == expected.fingerprint
    found = [_compared(name, curves[name], expected, exact=exact) for name in curves]
    return next((one for one in found if one[0]), found[0])


def _compared(name: str, curve: Sequence[float], expected: Expected, *, exact: bool) -> tuple[str, str]:
    known = expected.curves[name]
    steps = min(len(curve), len(known))
    found, stored = np.asarray(curve[:steps]), np.asarray(known[:steps])
    source = f"{expected.path} in {steps} steps"
    if exact:
        if (found == stored).all():
            return "", f"equal to the last digit to {source}"
        step = int(np.argmax(found != stored))
        return (
            f"Step={step + 1}: the {name} is {curve[step]!r}, and {known[step]!r} in {expected.path}, from the same "
            "machine and software: the arithmetic changed"
        ), ""
    tolerance = STANDARD_ERRORS * batch_noise(known) / np.sqrt(steps)
    difference = float((found - stored).mean())
    how = f"mean difference {difference:+.2g} (tolerance {tolerance:.2g}) from {source}"
    if abs(difference) <= tolerance:
        return "", how
    return f"the {name} is {'higher' if difference > 0 else 'lower'} than the stored one: {how}", how
