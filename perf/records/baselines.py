"""Result and baseline files: plain JSON, checked against a schema when read, written by promotion alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perf.errors import BaselineError
from perf.records.counters import StepCounters
from perf.records.fingerprint import Fingerprint
from perf.records.schema import ADVICE, SCHEMA, parse_json, place, require_valid, value_problem
from perf.records.sessions import MeasuredRun, Measurement, Session, configuration

BASELINES_DIR = Path("baselines")
LATEST_RESULT = Path("runs") / "bench.json"
"""Where every pytest session that times something leaves its result."""

PORTABLE = "portable"
KEY = "stepmark"
"""Where a pytest-benchmark file holds what this project adds."""

_MOST_BYTES = 2**28
"""Far more than any session has: what is larger is something else, and is not read into memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What a stored file says of one batch size.

    Attributes:
        path: the file.
        portable: whether it is meant for any machine; its losses then are never exact.
        micro_batch_size: samples per forward pass.
        seed: of weights, data and dropout.
        counters: what a step did.
        python: the version its Python calls belong to.
        losses: of each step, nats.
        fingerprint: where they come from.
    """

    path: Path
    portable: bool
    micro_batch_size: int
    seed: int
    counters: StepCounters
    python: str
    losses: tuple[float, ...]
    fingerprint: Fingerprint


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """A session read back.

    Attributes:
        path: its file.
        session: what was measured.
        provenance: when, by which command, at which commit, clean or dirty.
        promotions: how it became a baseline, the newest last; none for a mere result.
    """

    path: Path
    session: Session
    provenance: dict[str, Any]
    promotions: list[dict[str, Any]]

    @property
    def times_unfit(self) -> str:
        """Why its times are not compared with; "" where they are. Its commit, work and losses always are."""
        return str(self.promotions[-1].get("times_unfit", "")) if self.promotions else ""

    @property
    def rerun_problem(self) -> str:
        """Why its commit cannot be run again side by side; "" where it can."""
        commit = self.provenance["commit"]
        if self.provenance["dirty"]:
            return "was measured with uncommitted changes"
        return "" if re.fullmatch(r"[0-9a-f]{7,64}", commit) else f"was measured at commit {commit!r}"

    def expected(self, size: int) -> Expected | None:
        """Return the exact part for one batch size, or None if it was not measured."""
        measurement = self.session.measurements.get(size)
        if measurement is None:
            return None
        run = measurement.runs[0]
        return Expected(
            path=self.path,
            portable=False,
            micro_batch_size=measurement.micro_batch_size,
            seed=self.session.seed,
            counters=run.counters,
            python=self.session.python,
            losses=run.losses,
            fingerprint=self.session.fingerprint,
        )


def baseline_path(directory: Path, configuration: str, here: Fingerprint) -> Path:
    """Return where this machine's baseline of a configuration belongs, whether or not it is there."""
    return directory / here.slug / f"{configuration}.json"


def portable_path(directory: Path, configuration: str, here: Fingerprint) -> Path:
    """Return where the exact part belongs, which holds on any machine with the same torch."""
    torch = str(here.software["torch"]).partition("+")[0]
    return directory / PORTABLE / f"{configuration}-torch-{torch}.json"


def session_json(session: Session, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return a session as JSON data; `load_session` reads it back."""
    return {
        **_about("session", session, provenance, []),
        "measurements": {
            str(size): {"micro_batch_size": m.micro_batch_size, "runs": [asdict(run) for run in m.runs]}
            for size, m in session.measurements.items()
        },
        "failures": {str(size): reason for size, reason in session.failures.items()},
    }


def portable_json(session: Session, provenance: Mapping[str, Any], promotions: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the part of a session that holds on any machine as JSON data; `load_portable` reads it back."""
    return {
        **_about("portable", session, provenance, promotions),
        "sizes": {
            str(size): {
                "micro_batch_size": m.micro_batch_size,
                "losses": list(m.runs[0].losses),
                "counters": asdict(m.runs[0].counters),
            }
            for size, m in session.measurements.items()
        },
    }


def _about(
    kind: str, session: Session, provenance: Mapping[str, Any], promotions: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "kind": kind,
        "schema": SCHEMA,
        "workload": session.workload,
        "device": session.device,
        "precision": session.precision,
        "seed": session.seed,
        "python": session.python,
        "fingerprint": asdict(session.fingerprint),
        "provenance": dict(provenance),
        "promotions": promotions,
    }


def load_session(path: Path) -> Baseline:
    """Read a result or baseline file.

    Raises:
        BaselineError: it is not there, damaged, or not one of ours: the message says which.
    """
    document = read_json(path)
    if KEY not in document:
        kind = "a pytest-benchmark file of another project" if "benchmarks" in document else "another program's JSON"
        raise BaselineError(
            f"{path}: is {kind}: found no {KEY!r} in it, and a stepmark result is needed; "
            "make one with: tox run -e bench"
        )
    data = document[KEY]
    require_valid(document, data, path, kind="result")
    if document["machine_info"] != data["fingerprint"]["hardware"]:
        raise BaselineError(f"{path}: machine_info is not the hardware of the fingerprint; {ADVICE}")
    _require_whole_micro_batches(path, (KEY, "measurements"), data["measurements"])
    measurements = {
        int(size): Measurement(
            global_batch_size=int(size),
            micro_batch_size=m["micro_batch_size"],
            runs=tuple(
                _run(run, f"{path}: at {place((KEY, 'measurements', size, 'runs', i))}")
                for i, run in enumerate(m["runs"])
            ),
        )
        for size, m in data["measurements"].items()
    }
    if len({len(measurement.runs) for measurement in measurements.values()}) > 1:
        raise BaselineError(f"{path}: has more runs of one batch size than of another; {ADVICE}")
    if len({len(run.step_s) for measurement in measurements.values() for run in measurement.runs}) > 1:
        raise BaselineError(f"{path}: has more steps of one run than of another; {ADVICE}")
    session = Session(
        workload=data["workload"],
        device=data["device"],
        precision=data["precision"],
        seed=data["seed"],
        fingerprint=Fingerprint(**data["fingerprint"]),
        python=data["python"],
        measurements=measurements,
        failures={int(size): reason for size, reason in data["failures"].items()},
    )
    return Baseline(path=path, session=session, provenance=data["provenance"], promotions=data["promotions"])


def load_portable(path: Path) -> dict[int, Expected]:
    """Read a portable baseline: what it expects, by global batch size.

    Raises:
        BaselineError: as for `load_session`; or it is of something else than its name says.
    """
    data = read_json(path)
    require_valid(data, data, path, kind="portable")
    about = configuration(data["workload"], data["device"], data["precision"])
    name = portable_path(Path(), about, Fingerprint(**data["fingerprint"])).name
    if name != path.name:
        raise BaselineError(f"{path}: holds what belongs into {name}; {ADVICE}")
    _require_whole_micro_batches(path, ("sizes",), data["sizes"])
    return {
        int(size): Expected(
            path=path,
            portable=True,
            micro_batch_size=part["micro_batch_size"],
            seed=data["seed"],
            counters=StepCounters(**part["counters"]),
            python=data["python"],
            losses=tuple(map(float, part["losses"])),
            fingerprint=Fingerprint(**data["fingerprint"]),
        )
        for size, part in data["sizes"].items()
    }


def find_expected(session: Session, size: int, baseline: Baseline | None, directory: Path) -> Expected | None:
    """Return what the losses and counters of one batch size are compared with, or None.

    That is the baseline's part if the same torch made it, else the portable one of this torch, else the baseline's
    part of another torch; always of the same configuration and seed.

    Raises:
        BaselineError: the portable baseline is damaged.
    """
    candidates: list[Expected | None] = []
    if baseline and baseline.session.configuration == session.configuration:
        candidates.append(baseline.expected(size))
    path = portable_path(directory, session.configuration, session.fingerprint)
    if path.exists():
        candidates.append(load_portable(path).get(size))
    fitting = [found for found in candidates if found and found.seed == session.seed]
    here = session.fingerprint.software["torch"]
    return next((found for found in fitting if found.fingerprint.software["torch"] == here), next(iter(fitting), None))


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; nothing in it is executed.

    Raises:
        BaselineError: it is missing, empty, cut off, not JSON, holds NaN, names a key twice, or is no object.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise BaselineError(f"{path}: cannot be read ({error}); restore it or name another file") from None
    if len(content) > _MOST_BYTES:
        raise BaselineError(f"{path}: is larger than {_MOST_BYTES:,} bytes, and no result is; name another file")
    try:
        found = parse_json(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BaselineError(f"{path}: is not whole JSON ({error}); {ADVICE}") from None
    if problem := value_problem(found):
        raise BaselineError(f"{path}: {problem}; {ADVICE}")
    if not isinstance(found, dict):
        raise BaselineError(f"{path}: holds a JSON {type(found).__name__}, and an object is needed; name another file")
    return found


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a file whole or not at all: a reader sees the one before or this one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _run(data: dict[str, Any], where: str) -> MeasuredRun:
    if len(data["losses"]) != len(data["step_s"]) or data["warmup_steps"] >= len(data["step_s"]):
        raise BaselineError(
            f"{where}: {len(data['step_s'])} times, {len(data['losses'])} losses, {data['warmup_steps']} steps of "
            f"warm-up do not fit together; {ADVICE}"
        )
    return MeasuredRun(
        step_s=tuple(map(float, data["step_s"])),
        warmup_steps=data["warmup_steps"],
        losses=tuple(map(float, data["losses"])),
        lines=tuple(data["lines"]),
        counters=StepCounters(**data["counters"]),
    )


def _require_whole_micro_batches(path: Path, where: tuple[str, ...], sizes: Mapping[str, Any]) -> None:
    for size, part in sizes.items():
        if int(size) % part["micro_batch_size"]:
            raise BaselineError(
                f"{path}: at {place((*where, size, 'micro_batch_size'))}: {part['micro_batch_size']} does not divide "
                f"{size}; {ADVICE}"
            )
