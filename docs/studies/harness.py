"""What measuring costs: a run in slices beside the bare loop, both around a step that does nothing.

Run with ``python -m docs.studies.harness``. A step that does nothing shows the cost itself; beside a real step it
would drown in the machine's noise.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import msgspec
import numpy as np
import torch

from perf.measure.bench import SLICE_STEPS
from perf.runner.slices import Slices
from perf.seam import Case
from perf.train.devices import World
from perf.train.stepping import Stepping
from perf.train.workloads import WORKLOADS


def main() -> None:
    """Compare, and print the cost of a step and what part of a real step that is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=2000, help="steps of a round")
    arguments = parser.parse_args()
    real_s = _real_step_s()
    costs = [_measured(arguments.steps) - _bare(arguments.steps) for _ in range(arguments.rounds)]
    low, median, high = np.quantile(costs, (0.1, 0.5, 0.9))
    print(
        f"measuring costs {1e6 * median:.1f} µs a step [10th to 90th percentile {1e6 * low:.1f} to {1e6 * high:.1f}], "
        f"{median / real_s:.4%} of a pico step at 512 ({1e3 * real_s:.1f} ms, {torch.get_num_threads()} threads); "
        f"{arguments.rounds} rounds of {arguments.steps} steps in slices of {SLICE_STEPS}, in turns"
    )


_LOSS = torch.zeros(())


def _bare(num_steps: int) -> float:
    """Return seconds a step of a loop that only steps, and reads the losses as often as the log does."""
    stepping = Stepping(lambda: _LOSS, world=World())
    began = time.perf_counter()
    for step in range(1, num_steps + 1):
        stepping.step()
        if step % SLICE_STEPS == 0:
            stepping.read()
    return (time.perf_counter() - began) / num_steps


def _measured(num_steps: int) -> float:
    """Return seconds a step of a run in slices, by its own marks: reporting and waiting lie between the slices."""
    spent, num_slices = 0.0, num_steps // SLICE_STEPS
    slices = Slices(Stepping(lambda: _LOSS, world=World()), torch.device("cpu"), 512)
    with Path(os.devnull).open("wb") as channel:
        for _ in range(num_slices):
            ended = slices.make(SLICE_STEPS)
            channel.write(msgspec.json.encode(ended))
            spent += ended.marks[-1] - ended.marks[0]
    return spent / num_slices / SLICE_STEPS


def _real_step_s() -> float:
    step = WORKLOADS["pico"](Case(global_batch_size=512, micro_batch_size=512))
    times = []
    for _ in range(30):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


if __name__ == "__main__":
    main()
