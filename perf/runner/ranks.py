"""``torchrun -m perf.runner.ranks WORKLOAD ...``: a run of anyone's workload on one or several ranks, with its log.

Each rank builds the step of its own case (`perf.seam.Case.rank`, `world_size`); the main one prints the lines. With it
as a command (docs/commands.md), a step in Python is measured over ranks.
"""

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from perf.cli import run
from perf.errors import EXIT_PROBLEM, MainRankError
from perf.finding import find, in_one_line
from perf.logs.runlog import StartLine
from perf.parsers import not_negative, positive
from perf.runner.slices import Slices
from perf.seam import DEVICES, Case, Workload
from perf.train.devices import join_ranks, resolve_device, resolve_precision
from perf.train.stepping import Stepping


def main() -> int:
    """Make the steps that the command line asks for, and return the exit code."""
    parser = argparse.ArgumentParser(prog="perf.runner.ranks", allow_abbrev=False)
    parser.add_argument("workload", help="a built-in name, FILE.py:NAME or MODULE:NAME")
    parser.add_argument("--global-batch-size", type=positive, required=True, help="samples of a step, over all ranks")
    parser.add_argument("--num-steps", type=positive, required=True)
    parser.add_argument("--log-steps", type=positive, default=1, help="steps of a log window (default: 1)")
    parser.add_argument("--seed", type=not_negative, default=0)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    try:
        with ExitStack() as held:
            _run(parser.parse_args(), held)
    except MainRankError:
        return EXIT_PROBLEM
    except Exception as error:
        print(f"rank {os.environ.get('RANK', '0')}: {in_one_line(error)}", file=sys.stderr)
        return EXIT_PROBLEM
    return 0


def _run(asked: argparse.Namespace, held: ExitStack) -> None:
    device, size = resolve_device(asked.device), asked.global_batch_size
    workload, world = find(asked.workload, Path.cwd()).workload, join_ranks(device, held)
    if not isinstance(workload, Workload) or size % world.size or asked.num_steps % asked.log_steps:
        raise ValueError(
            f"{asked.workload}: a step in Python is needed, {world.size} ranks that divide the batch {size}, and log "
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
    slices = Slices(Stepping(workload(case), world=world), device, size)
    say = print if world.is_main else lambda *lines, **how: None
    say(StartLine(global_batch_size=size, first_step=1, last_step=asked.num_steps), flush=True)
    for _ in range(asked.num_steps // asked.log_steps):
        say(*slices.make(asked.log_steps).lines, flush=True)


if __name__ == "__main__":
    run(main)
