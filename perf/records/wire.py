"""The messages between this side and a runner process: JSON lines, decoded into typed records where they arrive.

A runner may be of another commit. Fields that a reader does not know are ignored; fields that are missing are not
known, and what needs them is reported as not compared. A request or an answer keeps its meaning in all versions.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from perf.errors import MeasureError
from perf.records.sessions import Count, Fingerprint

VERSION = 3  # sides of this version and later ones can be compared with each other
REQUESTS = ("run", "count", "attribute")

# What a step is made of: "forward" has the loss, "optimizer" the update with dropping gradients, "other" the rest.
STEP_PHASES = ("data", "forward", "backward", "clip", "optimizer", "other")
# The operation that stands for a phase's time outside of all operations: Python, numpy, dispatch, files.
PYTHON = "(Python)"

_MOST_VALUES = 100_000
Name = Annotated[str, Meta(max_length=200)]
Number = Annotated[float, Meta(ge=-(2.0**63), le=2.0**63)]
Numbers = Annotated[tuple[Number, ...], Meta(max_length=_MOST_VALUES)]
Scalars = Annotated[dict[Name, Numbers], Meta(max_length=100)]
Expected = TypeVar("Expected", bound="Answer")


class CaseSpec(Struct, frozen=True, kw_only=True):
    """What one case is asked to be; the side decides the rest of `perf.seam.Case`."""

    global_batch_size: Count
    seed: Count = 0
    precision: Name | None = None  # "auto", "fp32" or "bf16"; None for the workload's own


class Request(Struct, frozen=True, kw_only=True):
    """What a runner is asked to do, in a fresh process."""

    do: Name  # one of `REQUESTS`
    case: CaseSpec  # of the workload
    layout: Count = 0  # seeds the layout of the fresh process's memory
    num_threads: Count = 0  # of a run on the CPU; 0 leaves what the environment says
    warmup_steps: Count = 0  # steps of a run before it says "waiting"
    run_dir: Annotated[str, Meta(max_length=4096)] = ""  # an empty folder, for what a command writes


class Answer(Struct, frozen=True, kw_only=True, tag_field="event", tag=str.lower):
    """What a runner says. Its "event" is the name of its class."""


class Ready(Answer, frozen=True, kw_only=True):
    """The runner has imported its workload."""

    protocol: Count = 0  # the `VERSION` it speaks
    can: Annotated[tuple[Name, ...], Meta(max_length=1000)] = ()  # what it can be asked to do


class Waiting(Answer, frozen=True, kw_only=True):
    """A run that has been built, and has made its warm-up steps."""

    pid: Annotated[int, Meta(ge=2, lt=2**31)]  # its process
    micro_batch_size: Count = 0  # samples per forward pass
    # about how long a step takes, seconds; None without warm-up steps
    step_s: Annotated[float, Meta(ge=1e-6, lt=1e6)] | None = None
    losses: Numbers = ()  # of the warm-up steps, nats
    scalars: Scalars = {}  # further scalars of the same steps, by name


class Stepped(Answer, frozen=True, kw_only=True):
    """A slice of a run; of a command, the whole run: a value for each of its log windows."""

    # seconds, before the first step and after each; of one clock of the machine
    marks: Annotated[tuple[Number, ...], Meta(min_length=2, max_length=_MOST_VALUES)]
    # losses, scalars: of its steps
    losses: Numbers = ()
    scalars: Scalars = {}
    lines: Annotated[tuple[str, ...], Meta(max_length=_MOST_VALUES)] = ()  # of its log
    # steps, printed_s: of a command, the step that ends each window, and how long the window took by its own log
    steps: Annotated[tuple[Count, ...], Meta(max_length=_MOST_VALUES)] = ()
    printed_s: Numbers = ()

    def __post_init__(self) -> None:
        if not all(a < b for a, b in pairwise(self.marks)):
            raise ValueError("marks that do not ascend")


class Counted(Answer, frozen=True, kw_only=True):
    """What a side does in a step, and what it is."""

    # of one step: numbers by name, and under "ops" how often each operation was dispatched
    counters: dict[str, Any] = {}
    facts: dict[str, Any] = {}  # what decides the work: device, precision, micro_batch_size, and those of the workload
    python: Name = ""  # the versions of Python and numpy, which its count of Python calls belongs to
    fingerprint: Fingerprint | None = None  # of its process


class PhaseTime(Struct, frozen=True, kw_only=True):
    """What one operation took in one phase."""

    phase: str  # one of `STEP_PHASES`; sides of other versions may have more
    operation: str  # its name and the type of its first tensor, such as ``aten::mm float32``; or "(Python)"
    count: float  # how often it was dispatched, per step; a whole number if the steps are alike
    seconds: float  # its time, per step
    # the source lines that call it, such as ``kernel.py:81: total = a @ b``, and how often, per step
    lines: Mapping[str, float] = {}


class Attributed(Answer, frozen=True, kw_only=True):
    """Where the time of a step goes."""

    rows: Annotated[tuple[PhaseTime, ...], Meta(min_length=1, max_length=_MOST_VALUES)]

    def __post_init__(self) -> None:
        if not all(_is_name(name) for row in self.rows for name in (row.phase, row.operation, *row.lines)):
            raise ValueError("names that do not print")


class Failed(Answer, frozen=True, kw_only=True):
    """In place of any other answer."""

    reason: str


class Ended(Answer, frozen=True, kw_only=True):
    """The process of a request has ended."""

    exit_code: int | None = None


class SideWork(Struct, frozen=True, kw_only=True):
    """What a side does and what it is, at one batch size; what it did not say is absent."""

    counters: Mapping[str, Any]  # as in `Counted`, in the forms that are known here
    losses: tuple[float, ...]  # of the first steps, nats
    facts: Mapping[str, Any]  # as in `Counted`, in the forms that are known here
    python: str  # the versions of Python and numpy, which its count of Python calls belongs to
    software: Mapping[str, Any]  # of its process, as in `Fingerprint`
    scalars: Mapping[str, tuple[float, ...]]  # further scalars of the first steps, by name
    reruns: tuple[tuple[float, ...], ...] = ()  # of a command, the losses of further runs


def decode(line: bytes, kind: type[Expected]) -> Expected | Failed | Ended:
    """Return the answer in a line. Raises MeasureError: it is no such answer; the message names the field."""
    try:
        return msgspec.json.decode(line, type=kind | Failed | Ended)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MeasureError(f"said {line[:80]!r}, which is no answer: {error}") from None


def side_work(counted: Counted, losses: tuple[float, ...], scalars: Mapping[str, tuple[float, ...]]) -> SideWork:
    """Return what a side does in a step, with what its first steps returned.

    What has a form that is not known here belongs to a later version, and is left out.
    """
    counters = {name: n for name, n in counted.counters.items() if name != "ops" and _is_name(name) and _is_number(n)}
    ops = counted.counters.get("ops")
    if isinstance(ops, dict) and all(_is_name(op) and isinstance(n, int) and _is_number(n) for op, n in ops.items()):
        counters["ops"] = ops
    return SideWork(
        counters=counters,
        losses=losses,
        facts={name: value for name, value in counted.facts.items() if _is_name(name) and _is_fact(value)},
        python=counted.python,
        software=counted.fingerprint.software if counted.fingerprint else {},
        scalars={name: values for name, values in scalars.items() if _is_name(name)},
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= 200


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -(2**63) < value < 2**63


def _is_fact(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= _MOST_VALUES and all(map(_is_number, value))
    return value is None or isinstance(value, str | bool) or _is_number(value)
