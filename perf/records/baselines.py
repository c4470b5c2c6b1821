"""Results and baselines: read as what was written, and refused where they are anything else."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from perf.errors import BaselineError
from perf.records.documents import ADVICE, read_json
from perf.records.sessions import Fingerprint, Reason, Session, Text, Word, name_problem

BASELINES_DIR = Path("baselines")
LATEST_RESULT = Path("runs") / "bench.json"  # where every pytest session that times something leaves its result
PORTABLE = "portable"  # the folder of baselines for any machine
KEY = "stepmark"  # where a pytest-benchmark file holds what this project adds
SCHEMA = 3
Rate = Annotated[float, Meta(gt=0, lt=1e15)]  # samples/sec


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


class _Answer(TypedDict):
    verdict: Word


class _Said(TypedDict):
    """What a file keeps of what was said of a workload, as far as it is read back."""

    title: Text
    answer: _Answer


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file holds under `KEY`. A portable baseline has losses and counters of one run, and no times."""

    kind: Literal["result", "baseline", "portable"]
    schema: int
    provenance: Provenance
    sessions: Annotated[list[Session], Meta(min_length=1)]
    promotions: Sequence[Promotion] = ()
    duets: dict[str, Any] = {}
    reports: list[_Said] = []

    def __post_init__(self) -> None:
        names = [session.configuration for session in self.sessions]
        if len(set(names)) < len(names):
            raise ValueError("sessions: has two of one workload")
        if self.kind != "result" and (len(names) != 1 or not self.promotions):
            raise ValueError(f"has {len(names)} sessions, {len(self.promotions)} promotions; one, and some, are needed")
        for session in self.sessions:
            session.fingerprint.require_named()
            runs = [run for measurement in session.measurements.values() for run in measurement.runs]
            if any(bool(run.step_s) == (self.kind == "portable") for run in runs):
                raise ValueError(f"{session.workload}: step_s: only a portable baseline has no times")


class Baseline(Struct, frozen=True, kw_only=True):
    """A session read back."""

    path: Path  # its file
    session: Session  # what was measured
    provenance: Provenance  # when, by which command, at which commit, clean or dirty
    promotions: Sequence[Promotion] = ()  # how it became a baseline, the newest last; none for a mere result
    portable: bool = False  # whether it is meant for any machine
    verdict: str = ""  # of the answer that was given; "" where none was

    @property
    def rerun_problem(self) -> str:
        """Why its commit cannot be run again side by side; "" where it can."""
        commit = self.provenance["commit"]
        if self.provenance["dirty"]:
            return "was measured with uncommitted changes"
        return "" if re.fullmatch(r"[0-9a-f]{7,64}", commit) else f"was measured at commit {commit!r}"


def commit_text(provenance: Mapping[str, Any]) -> str:
    """Return a commit, shortened, and whether there were changes beside it."""
    return f"{provenance['commit'][:12]}{' with uncommitted changes' if provenance['dirty'] else ''}"


def baseline_path(directory: Path, configuration: str, here: Fingerprint, *, portable: bool = False) -> Path:
    """Return where the baseline of a configuration belongs, whether or not it is there.

    A portable one, of losses and counters, holds on any machine with the same torch; others are of this machine.
    Workloads of one name in two files have folders of their own: ``<machine>/sub/bench_net.py/net-cpu-fp32.json``.
    Raises BaselineError: the workload's id cannot name a file.
    """
    if problem := name_problem(configuration):
        raise BaselineError(problem)
    place, _, name = configuration.rpartition(":")
    if portable:
        return directory / PORTABLE / place / f"{name}-torch-{here.torch_release}.json"
    return directory / here.slug / place / f"{name}.json"


def result_json(
    sessions: Sequence[Session],
    provenance: Provenance,
    duets: Mapping[str, Any],  # by workload
    reports: Sequence[Any] = (),  # what was said of each workload, as `perf.report.sections.Report`
) -> dict[str, Any]:
    """Return what a result file holds under `KEY`; `load_result` reads the sessions back."""
    return _as_json(kind="result", provenance=provenance, sessions=sessions, duets=duets, reports=reports)


def baseline_json(baseline: Baseline) -> dict[str, Any]:
    """Return what a baseline's file holds under `KEY`: of a portable one only losses and counters, of one run."""
    session, kind = baseline.session, "baseline"
    if baseline.portable:
        measurements = {
            size: replace(m, runs=(replace(m.runs[0], step_s=(), warmup_steps=0, lines=()),))
            for size, m in session.measurements.items()
        }
        session, kind = replace(session, measurements=measurements), "portable"
    return _as_json(kind=kind, provenance=baseline.provenance, sessions=[session], promotions=baseline.promotions)


def _as_json(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(_Part(schema=SCHEMA, **fields), str_keys=True)
    return found


def load_result(path: Path) -> list[Baseline]:
    """Read a result or a baseline: each workload's session.

    Raises BaselineError: it is not there, damaged, not one of ours, or a baseline of something else than its path says.
    """
    document = read_json(path)
    if KEY not in document:
        raise BaselineError(f"{path}: has nothing of stepmark's, and a result of it is needed; make one with pytest")
    version = document[KEY].get("schema") if isinstance(document[KEY], dict) else None
    if type(version) is int and version != SCHEMA:
        advice = "measure again, or use the version that wrote it"
        raise BaselineError(f"{path}: has schema {version}, this version reads {SCHEMA}; {advice}")
    try:
        part = msgspec.convert({KEY: document[KEY]}, dict[str, _Part], str_keys=True)[KEY]
        if any(session.fingerprint.hardware != document.get("machine_info") for session in part.sessions):
            raise ValueError("machine_info is not the hardware of the fingerprint")
        if not isinstance(document.get("benchmarks"), list):
            raise ValueError("benchmarks is not a list")
    except (msgspec.ValidationError, ValueError) as error:  # the first is one of the second since msgspec 0.21
        problem, _, where = str(error).rpartition(" - at ")
        where = where.replace("`", "").replace("$[...]", KEY) if problem else "the top"
        raise BaselineError(f"{path}: at {where}: {(problem or str(error))[:400]}; {ADVICE}") from None
    session, portable = part.sessions[0], part.kind == "portable"
    place = baseline_path(Path(), session.configuration, session.fingerprint, portable=portable)
    if part.kind != "result" and path.absolute().parts[-len(place.parts) :] != place.parts:
        raise BaselineError(f"{path}: holds what belongs into {place}; {ADVICE}")
    verdicts = {said["title"]: said["answer"]["verdict"] for said in part.reports}
    made = Baseline(
        path=path, session=session, provenance=part.provenance, promotions=part.promotions, portable=portable
    )
    return [replace(made, session=one, verdict=verdicts.get(one.configuration, "")) for one in part.sessions]


def load_session(path: Path) -> Baseline:
    """Read a result or a machine's baseline that has one session; errors as for `load_result`."""
    found = load_result(path)
    if len(found) > 1 or found[0].portable:
        names = ", ".join(one.session.configuration for one in found) + " without times" * found[0].portable
        raise BaselineError(f"{path}: has {names}, and the times of one workload are needed; name another file")
    return found[0]


def load_baseline(path: Path) -> Baseline | None:
    """Read the baseline that belongs at a path, or None; errors as for `load_result`, and if it was never promoted."""
    if not path.exists():
        return None
    found = load_result(path)[0]
    if not found.promotions:
        raise BaselineError(f"{path}: is a result, and a baseline is needed; move it away, then stepmark promote")
    return found


def find_expected(session: Session, size: int, baseline: Baseline | None, directory: Path) -> Baseline | None:
    """Return what the losses and counters of one batch size are compared with, or None.

    That is the baseline if the same torch made it, else the portable one of this torch, else the baseline of another
    torch; always of the same configuration and seed, and with that batch size. Errors as for `load_baseline`.
    """
    here = session.fingerprint
    portable = load_baseline(baseline_path(directory, session.configuration, here, portable=True))
    fitting = [
        found
        for found in (baseline, portable)
        if found
        and (found.session.configuration, found.session.seed) == (session.configuration, session.seed)
        and size in found.session.measurements
    ]
    return min(fitting, key=lambda one: one.session.fingerprint.torch_release != here.torch_release, default=None)
