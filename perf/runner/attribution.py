"""Where the time of a training step goes: per phase, and in it per operation, with the lines that call it.

Every operation is timed alone, and on a GPU waited for, so a step takes longer than in training: these times say
where to look, and mean something beside another side's that were taken alike. What torch.compile has compiled runs
uncompiled, as it does for the counters. Phases follow from torch's hooks, so the step may be anyone's code:

- "data" is what a step begins with, up to "forward". That is a module with parameters, what operations outside of
  modules record for a backward pass, and the loss, up to "backward": what runs in `backward` and `autograd.grad`.
- "clip" is what lies between a backward pass and an optimizer's step, and "optimizer" that step, without the passes
  that a closure makes in it. All else, also what cannot be told apart, is "other".

Zeroing gradients belongs where it stands: before the data it is "data", after the update "other". A step that says
its phases itself (`perf.seam.Case.phase`) is believed.
"""

import functools
import linecache
import os
import sys
import sysconfig
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import perf
import perf.train
from perf.printable import printable
from perf.records.wire import PYTHON, STEP_PHASES, PhaseTime
from perf.runner.counters import as_written
from perf.runner.phases import Charge, Gap, Part, Timeline, observed
from perf.train.devices import keep_freed_memory

_MOST_LINES = 20  # of an operation in a phase
_MOST_CHARACTERS = 80  # of a line's place, and of its text

_PERF, _TRAIN = Path(perf.__file__).parent, Path(perf.train.__file__).parent


def attribute(
    step: Callable[[], object],  # makes one optimizer step; what it returns is dropped
    *,
    device: torch.device,  # where it computes
    num_steps: int,  # how many to time
    read: Callable[[], object] | None = None,  # reads the losses since its last call: phase "logging"
    save: Callable[[Path], object] | None = None,  # writes to a temporary directory: phase "checkpoint"
    clock: Callable[[], float] = time.perf_counter,  # monotonic, seconds
) -> list[PhaseTime]:
    """Time steps, after a warm-up, and then one reading of their losses and one checkpoint, where given.

    All rows together, those of a step `num_steps` times, are the time that elapsed.

    Raises:
        ValueError: the step said a phase that is none of `STEP_PHASES`.
        OSError: the temporary directory could not be made.
    """
    with TemporaryDirectory() as directory, as_written():
        keep_freed_memory()  # as every run does: it decides whether operations have page faults
        step()
        # Where operations come from is found before they are timed: finding it takes time.
        with observed(device, lambda: 0.0, calling_line) as warmup:
            _advance(warmup, step, 1, read)
        with observed(device, clock) as timeline:
            _advance(timeline, step, num_steps, read)
            if save:
                with timeline.inside(Part("checkpoint")):
                    save(Path(directory))
    parts = dict.fromkeys(STEP_PHASES, num_steps)
    parts.update({phase: 1 for phase, function in (("logging", read), ("checkpoint", save)) if function})
    return [row for phase in parts for row in _rows(phase, timeline.phases[phase], parts[phase], warmup.phases[phase])]


def _advance(timeline: Timeline, step: Callable[[], object], num_steps: int, read: Callable[[], object] | None) -> None:
    for _ in range(num_steps):
        with timeline.inside(Gap("other")):
            step()
    if read:
        with timeline.inside(Part("logging")):
            read()


def _rows(phase: str, charges: Sequence[Charge], parts: int, warmup: Sequence[Charge]) -> list[PhaseTime]:
    """Return a phase's operations by name, their counts and times divided by the number of parts.

    The lines are those of the warm-up, which has one part; of an operation the most frequent ones.
    """
    counts, seconds = Counter({PYTHON: 0}), defaultdict[str, float](float)
    for operation, elapsed, _ in charges:
        counts[operation] += operation != PYTHON
        seconds[operation] += elapsed
    lines = defaultdict[str, dict[str, float]](dict)
    for (operation, line), count in Counter((charge.operation, charge.line) for charge in warmup).most_common():
        if line and len(lines[operation]) < _MOST_LINES:
            lines[operation][line] = count
    return [
        PhaseTime(
            phase=phase,
            operation=operation,
            count=counts[operation] / parts if counts[operation] % parts else counts[operation] // parts,
            seconds=seconds[operation] / parts,
            lines=lines[operation],
        )
        for operation in sorted(counts)
    ]


def calling_line() -> str:
    """Return the innermost line of the step's own code on this thread's stack; "" if there is none.

    Lines of Python, of installed packages and of stepmark do not count; those of the built-in workloads do. For
    example ``net/kernel.py:81: total += a @ b``, with the path from the current folder.
    """
    frame = sys._getframe(1)
    while not _is_own(frame.f_code.co_filename):
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    return _shown(frame.f_code.co_filename, frame.f_lineno)


@functools.cache
def _is_own(filename: str) -> bool:
    path = Path(filename)
    if filename.startswith("<") or _TRAIN in path.parents:
        return _TRAIN in path.parents and path.name != "stepping.py"
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and not {_PERF, Path(sysconfig.get_path("stdlib"))} & {*path.parents}


@functools.cache
def _shown(filename: str, number: int) -> str:
    path = os.path.relpath(filename)
    place = printable(path if not path.startswith("..") else Path(filename).name)
    text = printable(" ".join(linecache.getline(filename, number).split()))
    return f"{place[-_MOST_CHARACTERS:]}:{number}: {text[:_MOST_CHARACTERS]}"
