"""The history of a workload on a machine: a small file for each session, in a folder that outlives a checkout."""

import re
import secrets
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from perf.errors import BaselineError
from perf.records.baselines import Provenance, Rate, baseline_path
from perf.records.documents import ADVICE, read_json, write_json
from perf.records.sessions import BatchSize, Fact, Fingerprint, Text, Word


class Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a session leaves in the history."""

    schema: Literal[1] = 1
    provenance: Provenance
    verdict: Word  # of its answer
    sentence: Text
    software: Annotated[dict[Word, Fact], Meta(max_length=1000)]
    rates: dict[BatchSize, Rate]  # samples/sec, the geometric mean over its runs
    ratios: dict[
        BatchSize, Rate
    ] = {}  # side by side: the candidate's rate over the baseline's, where it was compared so


def history_of(folder: Path, configuration: str, here: Fingerprint) -> Path:
    """Return where the entries of a configuration on this machine are."""
    return baseline_path(folder, configuration, here).with_suffix("")


def append(place: Path, entry: Entry) -> Path:
    """Write an entry into a file of its own, whole or not at all, and return the file; others may write at once."""
    date, commit = (re.sub(r"\W", "", entry.provenance[name]) for name in ("date", "commit"))
    path = place / f"{date[:15]}-{commit[:12]}-{secrets.token_hex(4)}.json"
    write_json(path, msgspec.to_builtins(entry, str_keys=True))
    return path


def load(place: Path) -> dict[Path, Entry]:
    """Read the entries, the oldest first; none where there is no folder.

    Raises:
        BaselineError: a file is damaged, or none of ours.
    """
    found = {}
    for path in place.glob("*.json"):
        try:
            found[path] = msgspec.convert(read_json(path), Entry, str_keys=True)
        except msgspec.ValidationError as error:
            raise BaselineError(f"{path}: is no entry of a history ({error}); {ADVICE}") from None
    return dict(sorted(found.items(), key=lambda item: (item[1].provenance["date"], item[0].name)))
