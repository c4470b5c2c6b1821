"""Result and baseline files: read back as what was written, and refused where they are anything else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from perf.errors import BaselineError
from perf.records.counters import StepCounters
from perf.records.documents import ADVICE, SCHEMA, as_json, decode, read_json
from perf.records.fields import BatchSize, Count, Device, Figure, Precision, Reason, Text, Word, name_problem
from perf.records.fingerprint import Fingerprint
from perf.records.sessions import Losses, Session, configuration, require_whole

BASELINES_DIR = Path("baselines")
LATEST_RESULT = Path("runs") / "bench.json"
"""Where every pytest session that times something leaves its result."""

PORTABLE = "portable"
KEY = "stepmark"
"""Where a pytest-benchmark file holds what this project adds."""


class Provenance(TypedDict):
    """When, by which command, at which commit, clean or dirty."""

    date: Word
    command: Text
    commit: Word
    dirty: bool


class Promotion(TypedDict):
    """How a result became a baseline: when, why, at which commit, clean or dirty, and which commit it replaced."""

    date: Word
    reason: Reason
    commit: Word
    dirty: bool
    replaces: Word


class _Stats(TypedDict):
    """What pytest-benchmark shows in its table."""

    min: Figure
    max: Figure
    mean: Figure
    stddev: Figure
    median: Figure
    iqr: Figure
    ops: Figure
    outliers: Word
    rounds: Count
    iterations: Count
    data: NotRequired[list[Figure]]


# pytest-benchmark merges the statistics over what it knows of the test, which they must not replace.
_OF_TEST = "name|fullname|group|params?|options|extra_info|path|source|cprofile|has_error"
_Figures = dict[Annotated[str, Meta(pattern=rf"^(?!({_OF_TEST})\Z)")], Figure]


# All records are dataclasses like the others of this project, and not msgspec's structs, which alone can refuse unknown
# fields: `decode` does that, and `dataclasses.replace` and `asdict` work on everything.
@dataclass(frozen=True, kw_only=True, slots=True)
class _Benchmark:
    name: Text
    fullname: Text
    stats: dict[str, Any]
    extra_info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            msgspec.convert(self.stats, _Stats)
            msgspec.convert({k: v for k, v in self.stats.items() if k not in ("outliers", "data")}, _Figures)
        except msgspec.ValidationError as error:
            raise ValueError(f"stats: {str(error).replace('$.', '')}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What a result or a machine's baseline holds under `KEY`."""

    kind: Literal["result", "baseline"]
    schema: int
    provenance: Provenance
    sessions: Annotated[tuple[Session, ...], Meta(min_length=1)]
    promotions: tuple[Promotion, ...] = ()
    duets: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for session in self.sessions:
            session.fingerprint.require_named()
        names = [session.configuration for session in self.sessions]
        if len(set(names)) < len(names):
            raise ValueError("sessions: has two of one workload")
        if self.kind == "baseline" and (len(names) != 1 or not self.promotions):
            raise ValueError(
                f"has {len(names)} sessions and {len(self.promotions)} promotions; a baseline has one, and some"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Document:
    machine_info: dict[str, Any]
    benchmarks: list[_Benchmark]
    stepmark: _Part

    def __post_init__(self) -> None:
        if any(session.fingerprint.hardware != self.machine_info for session in self.stepmark.sessions):
            raise ValueError("machine_info is not the hardware of the fingerprint")


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
class _Work:
    """What a portable baseline says of one batch size."""

    micro_batch_size: BatchSize
    losses: Losses
    counters: StepCounters


@dataclass(frozen=True, kw_only=True, slots=True)
class Portable:
    """What a portable baseline holds: the work and losses of each batch size, and where they come from."""

    kind: Literal["portable"]
    schema: int
    workload: str
    device: Device
    precision: Precision
    seed: Count
    python: Word
    fingerprint: Fingerprint
    sizes: Annotated[dict[BatchSize, _Work], Meta(min_length=1)]
    provenance: Provenance
    promotions: tuple[Promotion, ...]

    def __post_init__(self) -> None:
        if problem := name_problem(configuration(self.workload, self.device, self.precision)):
            raise ValueError(problem)
        self.fingerprint.require_named()
        for size, work in self.sizes.items():
            require_whole(size, work.micro_batch_size)

    def expected(self, path: Path) -> dict[int, Expected]:
        """Return what it says of each global batch size; `path` is its file."""
        return {
            size: Expected(
                path=path,
                portable=True,
                micro_batch_size=work.micro_batch_size,
                seed=self.seed,
                counters=work.counters,
                python=self.python,
                losses=work.losses,
                fingerprint=self.fingerprint,
            )
            for size, work in self.sizes.items()
        }


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
    provenance: Provenance
    promotions: tuple[Promotion, ...] = ()

    @property
    def times_unfit(self) -> str:
        """Why a baseline's times are not compared with; "" where they are. Its commit, work and losses always are."""
        return self.session.times_unfit if self.promotions else ""

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
    """Return where this machine's baseline of a configuration belongs, whether or not it is there.

    Workloads of one name in two files have folders of their own: ``<machine>/sub/bench_net.py/net-cpu-fp32.json``.

    Raises:
        BaselineError: the workload's id cannot name a file.
    """
    return directory / here.slug / _file(configuration)


def portable_path(directory: Path, configuration: str, here: Fingerprint) -> Path:
    """Return where the exact part belongs, which holds on any machine with the same torch; otherwise as above."""
    torch = str(here.software["torch"]).partition("+")[0]
    return directory / PORTABLE / _file(configuration, f"-torch-{torch}")


def _file(configuration: str, suffix: str = "") -> Path:
    if problem := name_problem(configuration):
        raise BaselineError(problem)
    place, _, name = configuration.rpartition(":")
    return Path(place, f"{name}{suffix}.json")


def result_json(
    sessions: Sequence[Session], provenance: Provenance, duets: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return what a result file holds under `KEY`; `load_result` reads it back."""
    part = _Part(kind="result", schema=SCHEMA, provenance=provenance, sessions=tuple(sessions), duets=dict(duets or {}))
    return as_json(part)


def baseline_json(session: Session, provenance: Provenance, promotions: Sequence[Promotion]) -> dict[str, Any]:
    """Return what a machine's baseline holds under `KEY`."""
    return as_json(
        _Part(
            kind="baseline",
            schema=SCHEMA,
            provenance=provenance,
            sessions=(session,),
            promotions=tuple(promotions),
        )
    )


def portable_json(session: Session, provenance: Provenance, promotions: Sequence[Promotion]) -> dict[str, Any]:
    """Return the part of a session that holds on any machine as JSON data; `load_portable` reads it back."""
    sizes = {
        size: _Work(micro_batch_size=m.micro_batch_size, losses=m.runs[0].losses, counters=m.runs[0].counters)
        for size, m in session.measurements.items()
    }
    return as_json(
        Portable(
            kind="portable",
            schema=SCHEMA,
            workload=session.workload,
            device=session.device,
            precision=session.precision,
            seed=session.seed,
            python=session.python,
            fingerprint=session.fingerprint,
            sizes=sizes,
            provenance=provenance,
            promotions=tuple(promotions),
        )
    )


def load_result(path: Path) -> list[Baseline]:
    """Read a result or a machine's baseline: each workload's session.

    Raises:
        BaselineError: it is not there, damaged, not one of ours, or a baseline of something else than its path says.
    """
    return sessions_of(read_json(path), path)


def sessions_of(document: Mapping[str, Any], path: Path) -> list[Baseline]:
    """Return the same of a document that `path` holds."""
    if KEY not in document:
        kind = "a pytest-benchmark file of another project" if "benchmarks" in document else "another program's JSON"
        raise BaselineError(
            f"{path}: is {kind}: found no {KEY!r} in it, and a stepmark result is needed; "
            "make one with: tox run -e bench"
        )
    part = decode(document, _Document, path, KEY).stepmark
    if part.kind == "baseline":
        session = part.sessions[0]
        _require_place(path, baseline_path(Path(), session.configuration, session.fingerprint))
    return [
        Baseline(path=path, session=session, provenance=part.provenance, promotions=part.promotions)
        for session in part.sessions
    ]


def load_session(path: Path) -> Baseline:
    """Read a result or a machine's baseline that has one session; errors as for `load_result`."""
    found = load_result(path)
    if len(found) > 1:
        names = ", ".join(one.session.configuration for one in found)
        raise BaselineError(f"{path}: has sessions of {names}, and one is needed; name a file with one")
    return found[0]


def load_baseline(directory: Path, configuration: str, here: Fingerprint) -> Baseline | None:
    """Read this machine's baseline of a configuration; None where there is none.

    Raises:
        BaselineError: as for `load_result`; or it was never promoted.
    """
    path = baseline_path(directory, configuration, here)
    if not path.exists():
        return None
    found = load_session(path)
    if not found.promotions:
        raise BaselineError(
            f"{path}: is a result, and a baseline is needed; move it away, then python -m perf promote --from it"
        )
    return found


def load_portable(path: Path) -> dict[int, Expected]:
    """Read what a portable baseline expects, by global batch size; errors as for `load_result`."""
    return read_portable(path).expected(path)


def read_portable(path: Path) -> Portable:
    """Read a portable baseline as it is."""
    found = decode(read_json(path), Portable, path)
    about = configuration(found.workload, found.device, found.precision)
    _require_place(path, portable_path(Path(), about, found.fingerprint))
    return found


def _require_place(path: Path, place: Path) -> None:
    if path.absolute().parts[-len(place.parts) :] != place.parts:
        raise BaselineError(f"{path}: holds what belongs into {place}; {ADVICE}")


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
