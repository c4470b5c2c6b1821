"""Where the time of a training step goes: per phase, and in it per operation, with the lines that call it.

Every operation is timed alone, and on a GPU waited for, so a step takes longer than in training: these times say
where to look, and mean something beside another side's that were taken alike. What torch.compile has compiled runs
uncompiled, as it does for the counters. Phases follow from torch's hooks, so the step may be anyone's code:

- "data" is what a step begins with, up to "forward". That is a module with parameters, and after it the loss, up to
  "backward": what runs in `backward` and `autograd.grad`.
- "clip" is what lies between a backward pass and an optimizer's step, and "optimizer" that step, without the passes
  that a closure makes in it. All else, also what cannot be told apart, is "other".

Zeroing gradients belongs where it stands: before the data it is "data", after the update "other". A step that says
its phases itself (`perf.seam.Case.phase`) is believed.
"""

import functools
import linecache
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from perf.finding import is_own
from perf.printable import printable
from perf.records.wire import PYTHON, STEP_PHASES, PhaseTime
from perf.runner.counters import as_written
from perf.runner.phases import Gap, Timeline, observed

_MOST_LINES = 20  # of an operation in a phase
_MOST_CHARACTERS = 80  # of a line's place, and of its text

_TRAIN = Path(__file__).parents[1] / "train"


def attribute(
    step: Callable[[], object],  # makes one optimizer step; what it returns is dropped
    *,
    device: torch.device,  # where it computes
    num_steps: int = 2,  # how many to time
    clock: Callable[[], float] = time.perf_counter,  # monotonic, seconds
) -> tuple[PhaseTime, ...]:
    """Time steps, after a warm-up. All rows together, `num_steps` times, are the time that elapsed.

    Raises ValueError: the step said a phase that is none of `STEP_PHASES`.
    """
    with as_written():
        step()
        # Where operations come from is found before they are timed: finding it takes time.
        with observed(device, lambda: 0.0, calling_line) as warmup, warmup.inside(Gap("other")):
            step()
        with observed(device, clock) as timeline:
            for _ in range(num_steps):
                with timeline.inside(Gap("other")):
                    step()
    return tuple(row for phase in STEP_PHASES for row in _rows(phase, timeline, warmup, num_steps))


def _rows(phase: str, timeline: Timeline, warmup: Timeline, num_steps: int) -> Iterator[PhaseTime]:
    """Return a phase's operations by name, their counts and times per step.

    The lines are those of the warm-up, which has one step; of an operation the most frequent ones.
    """
    counts, seconds = Counter({PYTHON: 0}), defaultdict[str, float](float)
    for operation, elapsed, _ in timeline.phases[phase]:
        counts[operation] += operation != PYTHON
        seconds[operation] += elapsed
    lines = defaultdict[str, dict[str, float]](dict)
    calls = Counter((charge.operation, charge.line) for charge in warmup.phases[phase])
    for (operation, line), count in calls.most_common():
        if line and len(lines[operation]) < _MOST_LINES:
            lines[operation][line] = count
    for operation, count in sorted(counts.items()):
        yield PhaseTime(
            phase=phase,
            operation=operation,
            count=count / num_steps if count % num_steps else count // num_steps,
            seconds=seconds[operation] / num_steps,
            lines=lines[operation],
        )


def calling_line() -> str:
    """Return the innermost line of the step's own code on this thread's stack; "" if there is none.

    Lines of Python, of installed packages and of stepmark do not count; those of the built-in workloads do. For
    example ``net/kernel.py:81: total += a @ b``, with the path from the current folder.
    """
    frame = sys._getframe().f_back
    while frame:
        if line := _shown(frame.f_code.co_filename, frame.f_lineno):
            return line
        frame = frame.f_back
    return ""


@functools.cache
def _shown(filename: str, number: int) -> str:
    if not (_TRAIN in Path(filename).parents or is_own(Path(filename))):
        return ""
    path = os.path.relpath(filename)
    place = printable(path if not path.startswith("..") else Path(filename).name)
    text = printable(" ".join(linecache.getline(filename, number).split()))
    return f"{place[-_MOST_CHARACTERS:]}:{number}: {text[:_MOST_CHARACTERS]}"
