"""The messages between a duet and its sides: JSON lines, checked where they arrive.

The sides may be of other commits than this one. Fields that a reader does not know are ignored; fields that are missing are
not known, and what needs them is reported as not compared. A request or an answer keeps its meaning in all versions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, TypeGuard

from perf.errors import MeasureError
from perf.measure.processes import Answer
from perf.records.pairs import Marks
from perf.records.phases import PhaseTime
from perf.train.workloads import Workload

VERSION = 2
"""Sides of this version and later ones can be compared with each other."""

REQUESTS = ("run", "count", "attribute")

_MOST_VALUES = 100_000
_MOST_COUNT = 2**63
_LONGEST_NAME = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class SideSpec:
    """What a run of a side is to train.

    Attributes:
        workload, global_batch_size, seed: what to train.
        device, precision: as on the command line; "auto" lets the side choose.
        num_threads: of a run on the CPU; 0 leaves what the environment says.
    """

    workload: Workload
    global_batch_size: int
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0
    num_threads: int = 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SideSpec:
        """Return the spec of a request; fields unknown here are ignored, missing ones have their defaults."""
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        return cls(**{**known, "workload": Workload.from_json(data["workload"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class SideWork:
    """What a side does and what it is, at one batch size; what it did not say is absent.

    Attributes:
        counters: of one step: numbers by name, and under "ops" the number of times each operation was dispatched.
        losses: of the first steps, nats.
        facts: device, precision, micro_batch_size, and each field of the workload as the side understood it.
        python: what its count of Python calls belongs to.
        software: of its process.
    """

    counters: Mapping[str, Any]
    losses: tuple[float, ...]
    facts: Mapping[str, Any]
    python: str
    software: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """A run that has warmed up.

    Attributes:
        pid: its process.
        step_s: about how long a step takes.
        losses: of the steps so far, nats.
    """

    pid: int
    step_s: float
    losses: tuple[float, ...]


def request(do: str, spec: SideSpec, *, layout: int) -> str:
    """Return the line that asks for something."""
    return json.dumps({"do": do, "spec": asdict(spec), "layout": layout})


def read_ready(answer: Answer) -> frozenset[str]:
    """Return what a side can be asked for.

    Raises:
        MeasureError: it is older than the first version that can be compared.
    """
    version = answer.get("protocol")
    if not _is_count(version) or version < VERSION:
        raise MeasureError(
            f"speaks version {version!r:.40} of the wire, and {VERSION} or later is needed; use a later commit"
        )
    can = answer.get("can")
    if not isinstance(can, list) or not all(isinstance(name, str) for name in can):
        raise _wrong("ready", "can", can, "a list of names")
    return frozenset(can)


def read_waiting(answer: Answer) -> Waiting:
    """Return a run that has warmed up."""
    pid, step_s = answer.get("pid"), answer.get("step_s")
    if not _is_count(pid) or not 2 <= pid < 2**31:
        raise _wrong("waiting", "pid", pid, "a process")
    if not _is_number(step_s) or not 1e-6 <= step_s < 1e6:
        raise _wrong("waiting", "step_s", step_s, "seconds of a step")
    return Waiting(pid=pid, step_s=float(step_s), losses=_losses("waiting", answer))


def read_stepped(answer: Answer) -> tuple[Marks, tuple[float, ...]]:
    """Return the marks of a slice, seconds, and the losses of its steps, nats."""
    marks = answer.get("marks")
    if not _are_numbers(marks) or len(marks) < 2 or not all(a < b for a, b in pairwise(marks)):
        raise _wrong("stepped", "marks", marks, "two or more ascending times")
    return tuple(map(float, marks)), _losses("stepped", answer)


def read_counted(answer: Answer, losses: tuple[float, ...]) -> SideWork:
    """Return what a side does in a step, with the losses of its first steps."""
    counters, workload, python = answer.get("counters", {}), answer.get("workload", {}), answer.get("python", "")
    if not isinstance(counters, dict) or not all(map(_is_name, counters)) or not _are_counts(counters.get("ops", {})):
        raise _wrong("counted", "counters", counters, "numbers by name")
    if not isinstance(python, str):
        raise _wrong("counted", "python", python, "a version")
    facts: dict[str, Any] = {
        name: answer[name] for name in ("device", "precision", "micro_batch_size") if name in answer
    }
    fingerprint = answer.get("fingerprint", {})
    software = fingerprint.get("software", {}) if isinstance(fingerprint, dict) else fingerprint
    for name in ("device", "precision"):
        if not isinstance(facts.get(name, ""), str):
            raise _wrong("counted", name, facts[name], "a name")
    for name, value in (("workload", workload), ("fingerprint", software), ("device and others", facts)):
        if not isinstance(value, dict) or not all(map(_is_name, value)):
            raise _wrong("counted", name, value, "facts by name")
    return SideWork(
        counters={name: value for name, value in counters.items() if name == "ops" or _is_number(value)},
        losses=losses,
        facts=_facts({**facts, **{f"workload.{name}": value for name, value in workload.items()}}),
        python=python,
        software=_facts(software),
    )


def read_attributed(answer: Answer) -> list[PhaseTime]:
    """Return where the time of a step goes."""
    rows = answer.get("rows")
    if not isinstance(rows, list) or not rows or not all(map(_is_row, rows)):
        raise _wrong("attributed", "rows", rows, "rows of phase, operation, count and seconds")
    return [PhaseTime(**{field.name: row[field.name] for field in fields(PhaseTime)}) for row in rows[:_MOST_VALUES]]


def _losses(event: str, answer: Answer) -> tuple[float, ...]:
    losses = answer.get("losses", [])
    if not _are_numbers(losses):
        raise _wrong(event, "losses", losses, "a list of numbers")
    return tuple(map(float, losses))


def _wrong(event: str, name: str, value: object, needed: str) -> MeasureError:
    found = repr(value)
    return MeasureError(
        f"said {event!r} with {name} = {found if len(found) < 80 else found[:80] + '...'}, where {needed} was needed"
    )


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_COUNT


def _is_number(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -_MOST_COUNT < value < _MOST_COUNT and math.isfinite(value)


def _are_numbers(value: object) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) <= _MOST_VALUES and all(map(_is_number, value))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_NAME


def _are_counts(value: object) -> bool:
    return isinstance(value, dict) and all(_is_name(name) and _is_count(value[name]) for name in value)


def _facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what can be compared; what has a form that is not known here belongs to a later version."""
    return {name: value for name, value in values.items() if _is_fact(value)}


def _is_fact(value: object) -> bool:
    return value is None or isinstance(value, str | bool) or _is_number(value) or _are_numbers(value)


def _is_row(row: object) -> bool:
    return (
        isinstance(row, dict)
        and _is_name(row.get("phase"))
        and _is_name(row.get("operation"))
        and _is_number(row.get("count"))
        and _is_number(row.get("seconds"))
    )
