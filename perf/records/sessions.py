"""What was measured: raw values of runs and pairs, never only their mean; the types of their fields; the machine."""

import math
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, TypedDict

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from perf.printable import printable

# What the fields of a kept record may hold; msgspec refuses the rest when a file is read.
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]
BatchSize = Annotated[int, Meta(ge=1, le=99_999_999)]
Times = Annotated[tuple[Annotated[float, Meta(ge=1e-9, le=1e6)], ...], Meta(max_length=10**6)]
Losses = Annotated[tuple[Annotated[float, Meta(ge=-1e9, le=1e9)], ...], Meta(min_length=4, max_length=10**6)]
Scalars = Annotated[tuple[Annotated[float, Meta(ge=-1e39, le=1e39)], ...], Meta(max_length=10**6)]

Word = Annotated[str, Meta(pattern=r"^[ -~]{0,200}\Z")]  # printable ASCII in one line
Text = Annotated[str, Meta(max_length=100_000)]  # anything, so it is escaped where it is shown
MOST_REASON = 1000  # characters of the reason for a promotion
Reason = Annotated[str, Meta(max_length=MOST_REASON)]
Release = Annotated[str, Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]{0,99}\Z")]
Fact = Text | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
# What a workload says of itself; bool comes before int.
About = Text | bool | int | float | Annotated[list[int | float], Meta(max_length=1000)] | None
# "" of a command, which nobody else knows
Device = Annotated[str, Meta(pattern=r"^(cpu|cuda|)\Z")]
Precision = Annotated[str, Meta(pattern=r"^(fp32|bf16|)\Z")]
Facts = Annotated[dict[Word, Fact], Meta(max_length=1000)]

_PART = r"(?!\.{1,2}[/:])[A-Za-z0-9._-]+"
_CONFIGURATION = re.compile(rf"(?:(?=.{{1,200}}:){_PART}(?:/{_PART})*:)?[A-Za-z0-9_][A-Za-z0-9_-]{{0,63}}")


class _Hardware(TypedDict):
    """Facts that every machine has. They name its folder: bounds keep that name short."""

    cpu: Annotated[str, Meta(min_length=1, max_length=100)]
    cores: Annotated[int, Meta(ge=1, le=10**6)]
    isa: Annotated[str, Meta(min_length=1, max_length=20)]
    memory_gib: Annotated[int, Meta(ge=0, le=10**9)]
    gpu: Annotated[str, Meta(min_length=1, max_length=80)]
    num_gpus: Annotated[int, Meta(ge=0, le=10**5)]


class _Software(TypedDict):
    """What is said of all software, and compared by name."""

    python: Release
    torch: Release
    numpy: Release
    threads: Annotated[int, Meta(ge=1, le=10**6)]


class Fingerprint(Struct, frozen=True, kw_only=True):
    """A machine and the software on it.

    Other hardware makes times incomparable. Other software is what an upgrade is about, and is listed beside a verdict.
    What changes by itself (clock frequency, load, host name) is in neither.
    """

    hardware: Facts
    software: Facts

    @property
    def slug(self) -> str:
        """The machine class as a folder name."""
        facts = self.hardware
        parts = [facts["cpu"], f"{facts['cores']}c", f"{facts['memory_gib']}gib", facts["isa"]]
        if facts["num_gpus"]:
            parts += [f"{facts['num_gpus']}x", facts["gpu"]]
        return re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, parts)).lower()).strip("-")

    @property
    def torch_release(self) -> str:
        """The version of torch without its build, such as ``+cpu``."""
        return str(self.software["torch"]).partition("+")[0]

    def require_named(self) -> None:
        """Raise ValueError where a fact that others are told apart by is missing, or is not what it should be."""
        for name, facts, kind in (("hardware", self.hardware, _Hardware), ("software", self.software, _Software)):
            try:
                msgspec.convert(facts, kind)
            except msgspec.ValidationError as error:
                raise ValueError(f"fingerprint.{name}: {str(error).replace('$.', '')}") from None


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return each fact that differs, as ``name before -> now``, in order; printable, for facts come from files, too."""
    return [
        printable(f"{name} {before.get(name, 'not set')} -> {now.get(name, 'not set')}")
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


class StepCounters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one optimizer step at steady state does, on one rank."""

    # how often each operation was dispatched, by name
    ops: Annotated[dict[Word, Positive], Meta(min_length=1, max_length=10_000)]
    # floating-point operations of matrix products, attention and convolutions (two for a multiply-add)
    flops: Count
    allocated_bytes: Count  # what torch's allocators handed out, on all devices
    peak_bytes: Count  # the most that was in use at a time beyond what the step began with
    device_peak_bytes: Count  # the most that was in use at a time on the GPU, in all; 0 on a CPU
    # operations that make Python wait for a value: ``.item()``, ``bool()`` and the like, and on a GPU copies to the
    # host (``.tolist()``, ``.cpu()``), which on a CPU wait for nothing
    host_syncs: Count
    parameters: Count  # trainable numbers
    optimizer_updates: Count  # updates of the weights
    python_calls: Count  # Python functions entered; depends on the versions of Python and numpy


class MeasuredRun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fresh process that trained from step 0.

    The log of a command has a value for each log window, where others have one for each step.
    """

    losses: Losses  # of each step, nats
    counters: StepCounters | None = None  # what one step does; None of a command, whose log does not tell it
    # steps: the step that ends each log window; none where each value is of one step
    steps: Annotated[tuple[Positive, ...], Meta(max_length=10**6)] = ()
    # how long each log window took by the log's own rates, seconds; none where it does not say it
    printed_s: Annotated[tuple[Annotated[float, Meta(ge=-1e9, le=1e9)], ...], Meta(max_length=10**6)] = ()
    step_s: Times = ()  # seconds of each step, the first ones included; none where only work and losses are kept
    warmup_steps: Count = 0  # how many steps at the front are not used for times; see `find_warmup`
    lines: Annotated[tuple[Text, ...], Meta(max_length=10**6)] = ()  # its log
    # what else a step returned, by name, of each step
    scalars: Annotated[dict[Word, Scalars], Meta(max_length=1000)] = {}

    def __post_init__(self) -> None:
        num_steps, found = len(self.losses), {**self.scalars, "times": self.step_s or self.losses}
        found |= {"steps": self.steps or self.losses, "printed times": self.printed_s or self.losses}
        wrong = [f"{len(values)} {name}" for name, values in found.items() if len(values) != num_steps]
        wrong += [f"{self.warmup_steps} steps of warm-up"] if self.warmup_steps >= num_steps else []
        if wrong:
            raise ValueError(f"{num_steps} losses and {wrong[0]} do not fit together")

    @property
    def curves(self) -> dict[str, tuple[float, ...]]:
        """What the steps returned, by name; "loss" comes first."""
        return {"loss": self.losses, **self.scalars}

    @property
    def at_steps(self) -> Sequence[int]:
        """The step that each value belongs to."""
        return self.steps or range(1, len(self.losses) + 1)

    @property
    def timed_step_s(self) -> tuple[float, ...]:
        """Seconds of each step after the warm-up."""
        return self.step_s[self.warmup_steps :]


class Measurement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All runs of one workload at one batch size."""

    # global_batch_size, micro_batch_size: samples per step, and per forward pass
    global_batch_size: BatchSize
    micro_batch_size: BatchSize
    world_size: Positive = 1  # how many ranks train a batch together
    # in the order they were made; run ``i`` was interleaved with run ``i`` of the other batch sizes
    runs: Annotated[tuple[MeasuredRun, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size: {self.micro_batch_size} does not divide {self.global_batch_size}")


class Session(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything measured of one workload in one sitting, on one machine."""

    workload: str  # its id
    # device, precision, seed: how it was run
    device: Device
    precision: Precision
    seed: Count
    fingerprint: Fingerprint  # the machine and software of every run
    python: Word  # the versions of Python and numpy, which the count of Python calls belongs to
    # one for each batch size that could be measured
    measurements: Annotated[dict[BatchSize, Measurement], Meta(min_length=1)]
    failures: dict[BatchSize, Text]  # what went wrong, by the batch size that could not be measured
    sample: Word = "samples"  # what one sample is called
    # facts of the workload that decide what a step does
    about: Annotated[dict[Word, About], Meta(max_length=1000)] = {}
    # the smallest change of its rate that matters, a fraction; None where the workload has none of its own
    threshold: Annotated[float, Meta(gt=0, lt=1)] | None = None
    # how the machine was when measuring began: load, clock; what could not be read is missing
    health: Annotated[dict[Word, Fact], Meta(max_length=100)] = {}

    def __post_init__(self) -> None:
        if problem := name_problem(self.configuration):
            raise ValueError(problem)
        measurements = self.measurements.values()
        if (found := [m.global_batch_size for m in measurements]) != list(self.measurements):
            raise ValueError(f"measurements: found global_batch_size {found} under {list(self.measurements)}")
        if len({len(m.runs) for m in measurements}) > 1:
            raise ValueError("has more runs of one batch size than of another")
        if any((run.counters is None) != is_command(self.workload) for m in measurements for run in m.runs):
            raise ValueError("counters: all runs of a step have them, and those of a command have none")
        if any(run.at_steps != m.runs[0].at_steps for m in measurements for run in m.runs):
            raise ValueError("has other steps of one run than of another")

    @property
    def configuration(self) -> str:
        """What was run and how, in a word; baselines are kept under it."""
        return configuration(self.workload, self.device, self.precision)


def configuration(workload: str, device: str, precision: str) -> str:
    """Return what a workload, device type and precision are called together; `baseline_path` makes a file of it."""
    return "-".join(filter(None, (workload, device, precision)))


def is_command(workload: str) -> bool:
    """Return whether a workload's id, such as "stepmark.toml:bert", is that of a command."""
    return workload.rpartition(":")[0].endswith(".toml")


def name_problem(configuration: str) -> str:
    """Return why a configuration, such as "sub/bench_net.py:net-cpu-fp32", cannot name a file; or nothing."""
    if _CONFIGURATION.fullmatch(configuration):
        return ""
    return (
        f"workload {configuration[:100]!r}: its name needs at most 50 letters, digits, _, -, and its file or module, "
        "before the colon, at most 200 letters, digits and . _ - /, relative and without a part . or ..; rename it"
    )


def find_warmup(step_s: Sequence[float]) -> int:
    """Return how many steps at the front were slower than the run's later half ever explains.

    The limit is the median of the second half plus five times its spread (median absolute deviation, scaled to a
    standard deviation). The first step below it ends the warm-up. If none is in the first half, the machine was
    slower there altogether, which is a phase and no warm-up: then only the first step is dropped.
    """
    later = np.asarray(step_s[len(step_s) // 2 :])
    limit = float(np.median(later)) + 5 * float(deviation(later))
    return next((index for index, seconds in enumerate(step_s[: len(step_s) // 2]) if seconds <= limit), 1)


def deviation(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the standard deviation along the last axis that a normal distribution of the same median deviation has."""
    array = np.asarray(values, dtype=np.float64)
    return np.asarray(1.4826 * np.median(np.abs(array - np.median(array, axis=-1, keepdims=True)), axis=-1))


Marks = tuple[float, ...]
FEWEST_STARTS = 4  # with fewer starts nothing is decided: how much they spread is not known
# The variance between starts over that between pairs of one start, about; docs/studies/noise.py prints both.
VARIANCE_RATIO = 6.0


class Mode(StrEnum):
    """How two sides share a machine."""

    SIMULTANEOUS = "simultaneous"
    ALTERNATING = "alternating"


class Pair(Struct, frozen=True, kw_only=True):
    """One run of each side at one batch size."""

    global_batch_size: int  # of both
    start: int  # which start of the sides' processes it belongs to, from 0
    ended_s: float  # seconds of the duet when the pair ended
    effect: float  # logarithm of the candidate's rate over the baseline's; below 0 the candidate is slower
    # baseline, candidate: the marks of each slice, seconds from the first mark of the pair
    baseline: tuple[Marks, ...]
    candidate: tuple[Marks, ...]
    # losses: of each run of both sides, as commands print them
    losses: tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]] = ((), ())
    num_steps: int = 0  # from the first to the last mark of a slice; 0 where there is one between two marks


def simultaneous_effect(baseline: Marks, candidate: Marks) -> float:
    """Return the logarithm of the candidate's rate over the baseline's, while both were stepping.

    Marks are of one clock, seconds: before the first step, and after each. NaN if they were never stepping at once.
    """
    begin, end = max(baseline[0], candidate[0]), min(baseline[-1], candidate[-1])
    done = [np.diff(np.interp((begin, end), side, range(len(side))))[0] for side in (candidate, baseline)]
    return float(np.log(done[0] / done[1])) if min(done) > 0 else float("nan")


def alternating_effect(baseline: Sequence[Marks], candidate: Sequence[Marks]) -> float:
    """Return the same for slices in turns: the median over blocks of four (ABBA), in which a steady drift cancels."""
    seconds = [[marks[-1] - marks[0] for marks in side] for side in (baseline, candidate)]
    logs = np.log(seconds).reshape(2, -1, 2).sum(axis=2)  # by side and pair of slices
    return float(np.median(logs[0] - logs[1]) / 2)


def pairs_per_start(*, start_s: float, round_s: float, budget_s: float) -> int:
    """Return how many pairs of each batch size a start should have, so that the budget shows the smallest effect.

    The best number is the root of the ratio of the costs times the ratio of the variances (Kalibera and Jones 2013);
    fewer where `FEWEST_STARTS` would not fit into the budget. `budget_s` is of the whole duet,
    `round_s` what a pair of each batch size takes.
    """
    best = round(math.sqrt(start_s / round_s * VARIANCE_RATIO))
    fitting = int((budget_s / FEWEST_STARTS - start_s) / round_s)
    return max(1, min(best, fitting))
