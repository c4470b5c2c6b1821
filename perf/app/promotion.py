"""Promotion: the one way a result becomes a baseline."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perf.errors import BaselineError
from perf.judge.exact import counter_differences, loss_differences
from perf.judge.fitness import session_refusal, unfit_times
from perf.records.baselines import (
    KEY,
    Baseline,
    Expected,
    baseline_path,
    load_portable,
    load_session,
    portable_json,
    portable_path,
    read_json,
    write_json,
)
from perf.records.sessions import Session

LOCK = ".lock"
"""The file in the folder of baselines that a promotion locks; a baseline itself is replaced, and its lock with it."""


def promote(result: Path, directory: Path, *, reason: str, date: str) -> list[Path]:
    """Make a result the baseline of the machine it was measured on, and of its torch.

    Each file is replaced at once or not at all, and says in `promotions` what it replaced and why. Another promotion
    into the same folder is waited for. Times that spread too much to compare with are promoted with a mark that says so.

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
    found, document = _fit(result)
    with _locked(directory):
        files = _contents(found, document, directory, reason=reason, date=date)
        for path, content in files.items():
            write_json(path, content)
    return list(files)


def refusal(result: Path, directory: Path) -> str:
    """Return why `promote` would refuse a result, or nothing; arguments as there."""
    try:
        _contents(*_fit(result), directory, reason="", date="")
    except BaselineError as error:
        return str(error)
    return ""


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Wait until no other promotion is at work in a folder, and keep others out; the lock ends with the process."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fit(result: Path) -> tuple[Baseline, dict[str, Any]]:
    """Return a result that can become a baseline, as a session and as the file's content."""
    found = load_session(result)
    if problem := session_refusal(found.session):
        raise BaselineError(f"{result}: {problem}")
    return found, read_json(result)


def _contents(
    found: Baseline, document: dict[str, Any], directory: Path, *, reason: str, date: str
) -> dict[Path, dict[str, Any]]:
    """Return what a promotion writes, by file: all of it is made before anything is written."""
    provenance = found.provenance
    entry = {"date": date, "reason": reason, "commit": provenance["commit"], "dirty": provenance["dirty"]}
    unfit = unfit_times(found.session)
    mark = {"times_unfit": unfit} if unfit else {}
    about = found.session.configuration, found.session.fingerprint
    machine, portable = baseline_path(directory, *about), portable_path(directory, *about)
    log = _promotions(machine, found.session, {**entry, **mark})
    files = {machine: {**document, KEY: {**document[KEY], "promotions": log}}}
    if not _says_the_same(portable, found.session):
        before = read_json(portable) if portable.exists() else None
        log = before["promotions"] if before else []
        replaces = before["provenance"]["commit"] if before else ""
        files[portable] = portable_json(found.session, provenance, [*log, {**entry, "replaces": replaces}])
    return files


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
    if all(_is_expected(session, size, stored.get(size)) for size in session.measurements):
        return True
    _require_nothing_lost(path, set(stored), session)
    return False


def _is_expected(session: Session, size: int, expected: Expected | None) -> bool:
    measurement = session.measurements[size]
    run = measurement.runs[0]
    if expected is None or expected.micro_batch_size != measurement.micro_batch_size or expected.seed != session.seed:
        return False
    if counter_differences(expected.counters, run.counters, python_calls=expected.python == session.python):
        return False
    problem, _ = loss_differences(run.losses, expected, session.fingerprint)
    return not problem and len(run.losses) <= len(expected.losses)
