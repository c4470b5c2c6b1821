"""One side of a duet: ``python -m perf.runner.stepper`` forks a fresh run for each request; a run steps when told.

Importing torch takes seconds and a run less than one, so the process imports once and forks. What a fork inherits is the
layout of its memory, which makes a process faster or slower for as long as it lives; each run therefore shuffles its own
(docs/decisions.md, 15). Requests and answers are lines; answers are JSON.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch._dynamo  # making an optimizer imports it, which takes two seconds: once, before the forks

from perf.errors import PerfError
from perf.records.wire import REQUESTS, VERSION, SideSpec
from perf.runner.attribution import attribute
from perf.runner.counters import count_step, python_and_numpy
from perf.runner.machine import fingerprint
from perf.train.config import RunConfig, RunPlan, plan_run
from perf.train.data import SyntheticLanguage
from perf.train.devices import World, keep_freed_memory, resolve_device, resolve_precision, synchronize
from perf.train.trainer import Trainer

WARMUP_STEPS = 2
"""Untimed steps of a run: buffers and the optimizer's state come into being."""

ATTRIBUTED_STEPS = 2

Say = Callable[[dict[str, Any]], None]


def main() -> None:
    """Serve requests until the input ends."""
    # What a library prints must not come between the answers; what is buffered must not be lost to a fork.
    channel = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)

    def say(answer: dict[str, Any]) -> None:
        os.write(channel, json.dumps(answer).encode() + b"\n")

    keep_freed_memory()
    say({"event": "ready", "protocol": VERSION, "can": REQUESTS})
    while request := requests.readline():
        pid = os.fork()
        if pid == 0:
            _serve(json.loads(request), requests, say)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        say({"event": "ended", "exit_code": status})


def _serve(request: dict[str, Any], requests: BinaryIO, say: Say) -> None:
    """Do one request in this fresh process, and end it."""
    try:
        gc.freeze()  # a collection must not walk what was imported
        spec = SideSpec.from_json(request["spec"])
        serve = dict(zip(REQUESTS, (_run, _count, _attribute), strict=True))[request["do"]]
        _kept.append(shuffled_memory(random.Random(request["layout"])))
        serve(spec, requests, say)
        code = 0
    except (PerfError, ValueError) as error:  # a ValueError names an argument that does not fit this side
        say({"event": "failed", "reason": str(error)})
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stderr.flush()
    os._exit(code)  # nothing of the parent's is to be closed or flushed twice


_kept: list[object] = []


def shuffled_memory(rng: random.Random) -> list[bytearray]:
    """Allocate blocks of random sizes and free every second: what is allocated from then on lies elsewhere.

    The idea of randomized layout is Curtsinger and Berger's (Stabilizer, 2013), who move code and stack as well.
    """
    blocks = [bytearray(rng.randrange(1, 200_000)) for _ in range(rng.randrange(1, 60))]
    return blocks[::2]


def _plan(spec: SideSpec) -> tuple[RunPlan, SyntheticLanguage]:
    device = resolve_device(spec.device)
    if spec.num_threads:
        torch.set_num_threads(spec.num_threads)
    config = RunConfig(
        workload=spec.workload,
        global_batch_size=spec.global_batch_size,
        model_dir=Path("none"),
        device=device,
        precision=resolve_precision(spec.precision, device),
        seed=spec.seed,
        max_steps=spec.workload.lr_end_step,
        log_steps=spec.workload.log_steps,
        keep_checkpoints=0,
        start="fresh",
    )
    source = SyntheticLanguage(spec.workload, seed=spec.seed)
    return plan_run(config, source, World()), source


def _run(spec: SideSpec, requests: BinaryIO, say: Say) -> None:
    """Warm up, then make as many steps as each line says, until the line 0."""
    plan, source = _plan(spec)
    trainer = Trainer(plan, source, World())
    warmup = [time.perf_counter()]
    for _ in range(WARMUP_STEPS):
        trainer.step()
        synchronize(plan.config.device)
        warmup.append(time.perf_counter())
    losses = trainer.read_losses()
    say({"event": "waiting", "pid": os.getpid(), "step_s": warmup[-1] - warmup[-2], "losses": losses})
    while num_steps := int(requests.readline() or 0):
        marks, losses = timed_steps(trainer, num_steps, plan.config.device)
        say({"event": "stepped", "marks": marks, "losses": losses})


def timed_steps(trainer: Trainer, num_steps: int, device: torch.device) -> tuple[list[float], list[float]]:
    """Return marks (seconds) and losses (nats) of some steps.

    On a CPU there is a mark after each step, on a GPU only before the first and after the last, each after the device
    has finished. The last one follows the reading of the losses, as in a run that logs.
    """
    synchronize(device)
    marks = [time.perf_counter()]
    for _ in range(num_steps - 1):
        trainer.step()
        if device.type == "cpu":
            marks.append(time.perf_counter())
    trainer.step()
    losses = trainer.read_losses()
    synchronize(device)
    marks.append(time.perf_counter())
    return marks, losses


def _count(spec: SideSpec, requests: BinaryIO, say: Say) -> None:
    plan, source = _plan(spec)
    say(
        {
            "event": "counted",
            "counters": asdict(count_step(plan, source)),
            "micro_batch_size": plan.micro_batch_size,
            "device": plan.config.device.type,
            "precision": plan.config.precision,
            "workload": asdict(spec.workload),
            "python": python_and_numpy(),
            "fingerprint": asdict(fingerprint()),
        }
    )


def _attribute(spec: SideSpec, requests: BinaryIO, say: Say) -> None:
    plan, source = _plan(spec)
    rows = attribute(plan, source, num_steps=ATTRIBUTED_STEPS)
    say({"event": "attributed", "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
