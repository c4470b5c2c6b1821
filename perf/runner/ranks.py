"""``torchrun -m perf.runner.ranks WORKLOAD ...``: a run of anyone's workload on one or several ranks, with its log.

Each rank builds the step of its own case (`perf.seam.Case.rank`, `world_size`); the main one prints the lines. With it
as a command (docs/commands.md), a step in Python is measured over ranks.
"""

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import torch

from perf.cli import run
from perf.errors import EXIT_PROBLEM, MainRankError, PerfError, UsageError
from perf.finding import find, in_one_line
from perf.logs.runlog import StartLine
from perf.parsers import not_negative, positive
from perf.runner.slices import Slices
from perf.seam import DEVICES, Case, Workload
from perf.train.devices import join_ranks, resolve_device, resolve_precision
from perf.train.stepping import Stepping


def main() -> int:
    """Make the steps that the command line asks for, and return the exit code."""
    parser = argparse.ArgumentParser(prog="perf.runner.ranks", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("workload", help="a built-in name, FILE.py:NAME or MODULE:NAME")
    add("--global-batch-size", type=positive, required=True, metavar="B", help="samples of a step, over all ranks")
    add("--num-steps", type=positive, required=True, metavar="N")
    add("--log-steps", type=positive, default=1, metavar="L", help="steps of a log window (default: 1)")
    add("--seed", type=not_negative, default=0, metavar="S")
    add("--device", choices=DEVICES, default="auto")
    asked = parser.parse_args()
    try:
        with ExitStack() as held:
            _run(asked, held)
    except MainRankError:
        return EXIT_PROBLEM
    except (PerfError, UsageError) as error:
        print(f"rank {os.environ.get('RANK', '0')}: {error}", file=sys.stderr)
        return EXIT_PROBLEM
    return 0


def _run(asked: argparse.Namespace, held: ExitStack) -> None:
    """Build this rank's step and make its steps. Raises PerfError, UsageError: it cannot be built, or failed."""
    try:
        device = resolve_device(asked.device)
    except ValueError as error:
        raise UsageError(error) from None
    workload, size = find(asked.workload, Path.cwd()).workload, asked.global_batch_size
    world = join_ranks(device, held)
    if not isinstance(workload, Workload) or size % world.size or asked.num_steps % asked.log_steps:
        raise UsageError(
            f"{asked.workload}: a step in Python is needed, {world.size} ranks that divide the batch of {size}, and log "
            f"windows of {asked.log_steps} that divide {asked.num_steps} steps"
        )
    case = Case(
        global_batch_size=size,
        micro_batch_size=workload.micro_batch_size_of(size // world.size),
        seed=asked.seed,
        device=str(device),
        precision=resolve_precision(workload.precision, device),
        rank=world.rank,
        world_size=world.size,
    )
    try:
        step = workload(case)
    except Exception as error:
        raise PerfError(in_one_line(error)) from error
    slices = Slices(Stepping(step, world=world), torch.device(case.device), size)
    if world.is_main:
        print(StartLine(global_batch_size=size, first_step=1, last_step=asked.num_steps), flush=True)
    for _ in range(asked.num_steps // asked.log_steps):
        (line,) = slices.make(asked.log_steps).lines
        if world.is_main:
            print(line, flush=True)


if __name__ == "__main__":
    run(main)
