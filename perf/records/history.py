"""The history: a file for each session and its page beside it, in a folder that outlives a checkout."""

import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perf.records.baselines import KEY, Baseline, load_result
from perf.records.documents import write_json
from perf.records.sessions import Session


def keep(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write a session's result into a file of its own, whole or not at all, and return it; others may write at once."""
    made = result[KEY]["provenance"]
    date = datetime.fromisoformat(made["date"]).astimezone(UTC)
    commit = re.sub(r"[^0-9A-Za-z]", "", made["commit"])[:12] or "unknown"
    path = folder / f"{date:%Y%m%dT%H%M%SZ}-{commit}-{secrets.token_hex(8)}.json"
    write_json(path, result)
    return path


def load_history(folder: Path) -> list[Baseline]:
    """Return the workloads of all sessions, the oldest first; none without a folder; errors as for `load_result`."""
    paths = sorted(folder.glob("[0-9]*T[0-9]*Z-*-*.json"))  # the names that `keep` gives begin with the date
    return [one for path in paths for one in load_result(path)]


def alike(history: Sequence[Baseline], session: Session) -> list[Baseline]:
    """Return the sessions of the same configuration and hardware that have all batch sizes of a session."""
    return [
        one
        for one in history
        if one.session.configuration == session.configuration
        and one.session.fingerprint.hardware == session.fingerprint.hardware
        and session.measurements.keys() <= one.session.measurements.keys()
    ]
