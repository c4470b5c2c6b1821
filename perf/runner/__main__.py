"""``python -m perf.runner``: a process that imports a workload once, and does each request in a fresh fork.

Importing torch takes seconds and a run less than one. What a fork inherits is the layout of its parent's memory, which
makes a process faster or slower for as long as it lives; each run therefore shuffles its own (docs/decisions.md, 15).
Requests are JSON lines, and a run's commands are numbers of steps; answers are JSON lines.
"""

import argparse
import gc
import os
import platform
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn

import msgspec
import torch
import torch._dynamo  # making an optimizer imports it, which takes two seconds: once, before the forks
from msgspec.structs import asdict, replace

from perf.errors import PerfError, UsageError
from perf.finding import find, in_one_line
from perf.records import wire
from perf.records.wire import REQUESTS, Answer, Attributed, Counted, Failed, Request
from perf.runner.attribution import attribute
from perf.runner.counters import count_step
from perf.runner.machine import fingerprint
from perf.runner.slices import Slices
from perf.seam import Case, Workload
from perf.train.devices import World, keep_freed_memory, resolve_device, resolve_precision
from perf.train.stepping import Stepping

Say = Callable[[Answer], None]


def main() -> None:
    """Serve requests until the input ends."""
    parser = argparse.ArgumentParser(prog="perf.runner", allow_abbrev=False)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--candidate-root", type=Path)
    arguments = parser.parse_args()
    # What a library prints must not come between the answers; what is buffered must not be lost to a fork.
    channel = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)

    def say(answer: Answer) -> None:
        os.write(channel, msgspec.json.encode(answer) + b"\n")

    keep_freed_memory()
    usual_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # an import that computes must not leave threads, which no fork inherits
    try:
        workload = find(arguments.workload, Path.cwd(), arguments.candidate_root).workload
        assert isinstance(workload, Workload)  # commands have a runner of their own
    except UsageError as error:
        say(Failed(reason=str(error)))
        return
    say(wire.Ready(protocol=wire.VERSION, can=REQUESTS))
    while line := requests.readline():
        pid = os.fork()
        if pid == 0:
            _serve(line, workload, usual_threads, requests, say)
        say(wire.Ended(exit_code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


def _serve(line: bytes, workload: Workload, num_threads: int, requests: BinaryIO, say: Say) -> NoReturn:
    try:
        gc.freeze()  # a collection must not walk what was imported
        request = msgspec.json.decode(line, type=Request)
        torch.set_num_threads(request.num_threads or num_threads)
        _kept = shuffled_memory(random.Random(request.layout))  # kept until this process ends, which is in here
        size, device = request.case.global_batch_size, resolve_device("auto")
        case = Case(
            global_batch_size=size,
            micro_batch_size=workload.micro_batch_size_of(size),
            seed=request.case.seed,
            device=str(device),
            precision=resolve_precision(request.case.precision or workload.precision, device),
        )
        if request.do == "run":
            _run(workload, case, request.warmup_steps, requests, say)
        elif request.do == "count":
            say(_count(workload, case))
        elif request.do == "attribute":
            say(Attributed(rows=attribute(workload(case), device=device)))
        else:
            raise UsageError(f"was asked to {request.do}, and can {', '.join(REQUESTS)}")
    except (PerfError, UsageError) as error:
        say(Failed(reason=str(error)))
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        say(Failed(reason=in_one_line(error)))
    sys.stderr.flush()
    os._exit(0)  # nothing of the parent's is to be closed or flushed twice


def shuffled_memory(rng: random.Random) -> list[bytearray]:
    """Allocate blocks of random sizes and free every second: what is allocated from then on lies elsewhere.

    The idea of randomized layout is Curtsinger and Berger's (Stabilizer, 2013), who move code and stack as well.
    """
    blocks = [bytearray(rng.randrange(1, 200_000)) for _ in range(rng.randrange(1, 60))]
    return blocks[::2]


def _run(workload: Workload, case: Case, warmup_steps: int, requests: BinaryIO, say: Say) -> None:
    """Build a step and warm it up, then make as many steps as each line says, until the line 0."""
    stepping = Stepping(workload(case), world=World())
    new_slices = partial(Slices, stepping, torch.device(case.device), case.global_batch_size)
    waiting = wire.Waiting(pid=os.getpid(), micro_batch_size=case.micro_batch_size)
    if warmup_steps:
        made = new_slices().make(warmup_steps)
        waiting = replace(waiting, step_s=made.marks[-1] - made.marks[-2], losses=made.losses, scalars=made.scalars)
    say(waiting)
    slices = new_slices()  # the warm-up is not in its rates
    while num_steps := int(requests.readline() or 0):
        say(slices.make(num_steps))


def _count(workload: Workload, case: Case) -> Counted:
    device = torch.device(case.device)
    counters, here = asdict(count_step(workload(case), device)), fingerprint()
    facts = {"device": device.type, "precision": case.precision, "micro_batch_size": case.micro_batch_size}
    return Counted(
        counters=counters,
        facts={**facts, **{f"workload.{name}": value for name, value in workload.about.items()}},
        # numpy draws the data, in Python functions
        python=f"{'.'.join(platform.python_version_tuple()[:2])} with numpy {here.software['numpy']}",
        fingerprint=here,
    )


if __name__ == "__main__":
    main()
