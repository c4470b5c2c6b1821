"""Promotion: the one way a result becomes a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perf.errors import BaselineError
from perf.judge.baselines import (
    KEY,
    baseline_path,
    load_portable,
    load_session,
    portable_json,
    portable_path,
    read_json,
    write_json,
)
from perf.judge.exact import counter_differences, loss_differences
from perf.judge.stats import compare_rates, run_rate
from perf.measure.marks import Session

LEAST_RUNS = 3
"""Runs of each batch size a baseline needs, to know its own spread."""

MOST_BLUR = 0.5
"""The largest slowdown that may hide behind a baseline: beside itself it must show at least this one."""


def promote(result: Path, directory: Path, *, reason: str, date: str) -> list[Path]:
    """Make a result the baseline of the machine it was measured on, and of its torch.

    Each file is replaced at once or not at all, and says in `promotions` what it replaced and why.

    Args:
        result: a file that ``pytest --benchmark-json`` wrote.
        directory: the baselines.
        reason: for the log of promotions.
        date: for the same, ISO 8601.

    Returns:
        The files written: the machine's baseline and, unless it says the same already, the portable one.

    Raises:
        BaselineError: the result cannot be read or is not fit to be compared with, or a baseline there is damaged.
        OSError: a file could not be written.
    """
    found = load_session(result)
    _require_fit(found.session, result)
    document, provenance = read_json(result), found.provenance
    entry = {"date": date, "reason": reason, "commit": provenance["commit"], "dirty": provenance["dirty"]}
    about = found.session.configuration, found.session.fingerprint
    machine, portable = baseline_path(directory, *about), portable_path(directory, *about)
    # Both are made before either is written: a damaged file there stops the promotion before it begins.
    files = {machine: {**document, KEY: {**document[KEY], "promotions": _promotions(machine, found.session, entry)}}}
    if not _says_the_same(portable, found.session):
        before = read_json(portable) if portable.exists() else None
        log = before["promotions"] if before else []
        replaces = before["provenance"]["commit"] if before else ""
        files[portable] = portable_json(found.session, provenance, [*log, {**entry, "replaces": replaces}])
    for path, content in files.items():
        write_json(path, content)
    return list(files)


def _require_fit(session: Session, path: Path) -> None:
    again = "measure again with: tox run -e bench"
    if session.failures:
        size, reason = next(iter(session.failures.items()))
        raise BaselineError(f"{path}: global batch size {size} failed ({reason}); a whole session is needed; {again}")
    for size, measurement in session.measurements.items():
        runs = measurement.runs
        if len(runs) < LEAST_RUNS:
            raise BaselineError(
                f"{path}: has {len(runs)} runs at {size}, and {LEAST_RUNS} are needed to know the spread; {again}"
            )
        rates = [run_rate(run.timed_step_s, size) for run in runs]
        blur = compare_rates(rates, rates, family_size=len(session.measurements)).minimal_detectable_effect
        if blur > MOST_BLUR:
            raise BaselineError(
                f"{path}: the rates at {size} spread so much ({min(rates):,.0f} to {max(rates):,.0f} samples/sec) that a "
                f"slowdown of {blur:.0%} could hide behind them; let nothing else run, and {again}"
            )
        if any(counter_differences(runs[0].counters, run.counters) for run in runs):
            raise BaselineError(f"{path}: the runs at {size} do not do the same work in a step; {again}")
        if any(run.losses != runs[0].losses for run in runs):
            raise BaselineError(f"{path}: the runs at {size} do not have the same losses; {again}")


def _promotions(path: Path, session: Session, entry: dict[str, Any]) -> list[dict[str, Any]]:
    if not path.exists():
        return [{**entry, "replaces": ""}]
    before = load_session(path)
    _require_nothing_lost(path, set(before.session.measurements), session)
    return [*before.promotions, {**entry, "replaces": before.provenance["commit"]}]


def _require_nothing_lost(path: Path, sizes: set[int], session: Session) -> None:
    if lost := sorted(sizes - set(session.measurements)):
        raise BaselineError(
            f"{path}: also has {', '.join(map(str, lost))}, which this result lacks and promotion would lose; "
            "measure all batch sizes, or delete that file first"
        )


def _says_the_same(path: Path, session: Session) -> bool:
    """Return whether the portable baseline already expects what a session found."""
    if not path.exists():
        return False
    stored = load_portable(path)
    _require_nothing_lost(path, set(stored), session)
    for size, measurement in session.measurements.items():
        if size not in stored or stored[size].micro_batch_size != measurement.micro_batch_size:
            return False
        run, expected = measurement.runs[0], stored[size]
        same_python = expected.python == session.python
        if counter_differences(expected.counters, run.counters, python_calls=same_python):
            return False
        if loss_differences(run.losses, expected, session.fingerprint)[0] or len(run.losses) > len(expected.losses):
            return False
    return True
