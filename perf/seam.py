"""The seam: how a training step of anyone's enters. A workload is a function of a case that returns a step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

Step = Callable[[], Any]
"""Make one optimizer step.

Return its loss, a tensor without dimensions or a float, or a dict of such scalars with "loss".
"""

Fact = str | int | float | bool | list[int | float] | None

PRECISIONS = ("auto", "fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda")


def _silent(name: str) -> AbstractContextManager[object]:
    return nullcontext()  # as many Python calls as ever, which stored counters have


_enter_phase: Callable[[str], AbstractContextManager[object]] = _silent


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One parametrization of a workload, on one rank."""

    global_batch_size: int  # samples per optimizer step, over all ranks
    micro_batch_size: int  # samples per forward pass
    seed: int = 0  # of the weights, the data and everything random in a step
    device: str = "cpu"  # what ``torch.device`` and ``.to()`` take: "cpu" or "cuda:0"
    precision: str = "fp32"  # "fp32" or "bf16"
    rank: int = 0  # this process's number among those that train together
    world_size: int = 1  # how many there are

    def phase(self, name: str) -> AbstractContextManager[object]:
        """Say which phase of the step the block belongs to, such as "data".

        It costs nothing unless phases are timed.
        """
        return _enter_phase(name)


@contextmanager
def phases_heard(enter: Callable[[str], AbstractContextManager[object]]) -> Iterator[None]:
    """Let `enter` hear of every `Case.phase` inside the block."""
    global _enter_phase
    before, _enter_phase = _enter_phase, enter
    try:
        yield
    finally:
        _enter_phase = before


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What is trained: made by the decorator `workload`, called with a `Case` to build a step."""

    build: Callable[[Case], Step]  # the decorated function
    name: str  # the function's name
    why: str  # the first line of its docstring
    global_batch_sizes: tuple[int, ...]  # samples per optimizer step, one case each
    micro_batch_size: int | None = None  # samples per forward pass at most; None for the whole batch
    precision: str = "fp32"  # "fp32", "bf16", or "auto": bf16 on a GPU that has it, else fp32
    threshold: float | None = None  # the smallest change of its rate that matters, a fraction; None for the session's
    sample: str = "samples"  # what one sample is called in rates ("samples", "images", "tokens")
    # facts that decide what a step does; compared between two sides, and named where they differ
    about: Mapping[str, Fact] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes, micro, threshold = self.global_batch_sizes, self.micro_batch_size, self.threshold
        are_sizes = sizes and len(set(sizes)) == len(sizes) and all(map(_is_size, sizes))
        for name, is_fine, needed in (
            ("global_batch_sizes", are_sizes, "one or more different positive integers are needed"),
            ("micro_batch_size", micro is None or _is_size(micro), "a positive integer is needed"),
            ("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)} is needed"),
            ("threshold", threshold is None or 0 < threshold < 1, "a fraction between 0 and 1 is needed"),
            ("sample", _is_word(self.sample), "printable ASCII is needed"),
            ("about", all(map(_is_word, self.about)), "names of printable ASCII are needed"),
        ):
            if not is_fine:
                raise ValueError(f"workload {self.name}: {name}={getattr(self, name)!r}: {needed}")

    def __call__(self, case: Case) -> Step:
        """Build the step of a case.

        Raises:
            TypeError: the function returned something else than a callable.
        """
        step = self.build(case)
        if not callable(step):
            found = type(step).__name__
            raise TypeError(f"workload {self.name}: returned {found}, and a callable is needed: `return step`")
        return step

    def micro_batch_size_of(self, global_batch_size: int) -> int:
        """Return the largest micro-batch size up to the workload's that divides a batch."""
        most = min(self.micro_batch_size or global_batch_size, global_batch_size)
        return next(size for size in range(most, 0, -1) if global_batch_size % size == 0)


def workload(
    *,
    global_batch_sizes: Sequence[int],
    micro_batch_size: int | None = None,
    precision: str = "fp32",
    threshold: float | None = None,
    sample: str = "samples",
    about: Mapping[str, Fact] | None = None,
) -> Callable[[Callable[[Case], Step]], Workload]:
    """Make a workload of a function that builds a training step, such as `stepmark init` writes; see `Workload`."""

    def decorate(build: Callable[[Case], Step]) -> Workload:
        return Workload(
            build=build,
            name=build.__name__,
            why=(build.__doc__ or "").strip().partition("\n")[0],
            global_batch_sizes=tuple(global_batch_sizes),
            micro_batch_size=micro_batch_size,
            precision=precision,
            threshold=threshold,
            sample=sample,
            about=dict(about or {}),
        )

    return decorate


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable() and len(value) <= 200


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 2**24
