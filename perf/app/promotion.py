"""Promotion: the one way a result becomes a baseline."""

import fcntl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from perf.errors import BaselineError, UsageError
from perf.finding import find_root
from perf.judge.exact import loss_differences, session_refusal, work_changes
from perf.printable import shown, wrapped
from perf.records import baselines
from perf.records.baselines import KEY, Baseline, Promotion
from perf.records.documents import write_json
from perf.records.sessions import MOST_REASON, Session, is_command
from perf.report.bench import promotion_note


def promote_result(*, result: Path | None, reason: str) -> int:
    """Promote a result, by default the latest session's, say what was written, and return the exit code."""
    root = shown(find_root())
    result = result or root / baselines.LATEST_RESULT
    if len(reason) > MOST_REASON:
        raise UsageError(f"--reason: has {len(reason):,} characters, and at most {MOST_REASON:,} are kept")
    date = datetime.now(UTC).isoformat(timespec="seconds")
    written = promote(result, root / baselines.BASELINES_DIR, reason=reason, date=date)
    print(wrapped(promotion_note(baselines.load_result(result)[0], written)))
    return 0


def promote(result: Path, directory: Path, *, reason: str, date: str) -> list[Path]:
    """Make each session of a result the baseline of the machine it was measured on, and of its torch.

    Each file is replaced at once or not at all, and says in `promotions` what it replaced and why. Another promotion
    into the same folder is waited for. Returns the files written: the machine's baselines and, unless they say the same
    already, the portable ones.

    Raises:
        BaselineError: the result cannot be read or is not fit to be compared with, or a baseline there is damaged.
        OSError: a file could not be written.
    """
    _contents(result, directory, reason=reason, date=date)  # what is refused leaves nothing behind, also no folder
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a") as lock:  # a baseline itself is replaced, and its lock would go with it
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = _contents(result, directory, reason=reason, date=date)
        for path, content in files.items():
            write_json(path, content)
    return list(files)


def refusal(result: Path, directory: Path) -> str:
    """Return why `promote` would refuse a result, or nothing."""
    try:
        _contents(result, directory, reason="", date="")
    except BaselineError as error:
        return str(error)
    return ""


def _contents(result: Path, directory: Path, *, reason: str, date: str) -> dict[Path, dict[str, Any]]:
    found, files = baselines.load_result(result), {}
    for one in found:
        session, made = one.session, one.provenance
        if problem := session_refusal(session):
            raise BaselineError(f"{result}: {session.workload}: {problem}")
        # What a command computes with, nobody else knows: its losses are of this machine.
        for portable in (False,) if is_command(session.workload) else (False, True):
            path = baselines.baseline_path(directory, session.configuration, session.fingerprint, portable=portable)
            before = baselines.load_baseline(path)
            if before and portable and _is_expected(session, before):
                continue
            if before and (lost := sorted(before.session.measurements.keys() - session.measurements.keys())):
                names = ", ".join(map(str, lost))
                raise BaselineError(f"{path}: also has {names}, which would be lost; measure all, or delete that file")
            old = before.provenance["commit"] if before else ""
            entry = Promotion(date=date, reason=reason, commit=made["commit"], dirty=made["dirty"], replaces=old)
            log = [*(before.promotions if before else ()), entry]
            part = baselines.baseline_json(replace(one, promotions=log, portable=portable))
            files[path] = {"machine_info": session.fingerprint.hardware, "benchmarks": [], KEY: part}
    return files


def _is_expected(session: Session, before: Baseline) -> bool:
    """Return whether a portable baseline already says the same of each batch size, and of as many steps."""
    known = before.session.measurements
    return before.session.seed == session.seed and all(
        size in known
        and not work_changes(before.session, session, size)
        and not loss_differences(session, size, before)[0]
        and len(now.runs[0].losses) <= len(known[size].runs[0].losses)
        for size, now in session.measurements.items()
    )
