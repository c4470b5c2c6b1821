"""What measuring costs: the measured loop beside the bare one, both around a step that does nothing.

Run with ``python -m tests.benchmarks.harness``. A step that does nothing shows the cost itself; beside a real step it
would drown in the machine's noise.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from perf.runner.stepper import timed_steps
from perf.runner.worker import SlicedClock
from perf.train.config import RunConfig, RunPlan, plan_run
from perf.train.data import SyntheticLanguage
from perf.train.devices import World
from perf.train.loop import run_steps
from perf.train.trainer import Trainer
from perf.train.workloads import BERT_CONFIGS

SLICE_STEPS = 4
DUET_STEPS = 5


def main() -> None:
    """Compare, and print the cost of a step and what part of a real step that is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=2000, help="steps of a round")
    arguments = parser.parse_args()
    workload = BERT_CONFIGS["pico"]
    plan = plan_run(
        RunConfig(
            workload=workload,
            global_batch_size=512,
            model_dir=Path("none"),
            device=torch.device("cpu"),
            precision="fp32",
            max_steps=arguments.steps,
            log_steps=SLICE_STEPS,
            keep_checkpoints=0,
            start="fresh",
        ),
        SyntheticLanguage(workload, seed=0),
        World(),
    )
    real_s = float(np.median(_real_steps(plan)))
    costs = []
    for _ in range(arguments.rounds):
        bare = _bare(plan)
        costs.append(_measured(plan) - bare)
    in_slices = [_slices(plan) - _bare(plan, read_every=DUET_STEPS) for _ in range(arguments.rounds)]
    rounds = f"{arguments.rounds} rounds of {arguments.steps} steps in turns"
    real = f"of a pico step at 512 ({1e3 * real_s:.1f} ms, {torch.get_num_threads()} threads)"
    print(f"measuring costs {_cost(costs, real_s)} {real}; {rounds}")
    print(f"a duet's slices of {DUET_STEPS} steps cost {_cost(in_slices, real_s)} {real}; {rounds}")


def _cost(costs: list[float], real_s: float) -> str:
    low, median, high = np.quantile(costs, (0.1, 0.5, 0.9))
    spread = f"[10th to 90th percentile {1e6 * low:.1f} to {1e6 * high:.1f}]"
    return f"{1e6 * median:.1f} µs a step {spread}, {median / real_s:.4%}"


def _nothing(trainer: Trainer) -> None:
    trainer.global_step += 1
    trainer._unread_losses.append(_LOSS)


_LOSS = torch.zeros(())


def _bare(plan: RunPlan, *, read_every: int = SLICE_STEPS) -> float:
    """Return seconds a step of a loop that only steps, and reads the losses as often as the log does."""
    trainer = Trainer(plan, SyntheticLanguage(plan.config.workload, seed=0), World())
    began = time.perf_counter()
    for step in range(1, plan.last_step + 1):
        _nothing(trainer)
        if step % read_every == 0:
            trainer.read_losses()
    return (time.perf_counter() - began) / plan.last_step


def _measured(plan: RunPlan) -> float:
    """Return seconds a step of the loop that workers run, without the waiting for their turns."""
    with Path(os.devnull).open("w") as channel, mock.patch.multiple(Trainer, step=_nothing, save=lambda self: None):

        def wait(step_s: list[float]) -> None:
            channel.write(json.dumps({"event": "waiting", "step_s": step_s[-SLICE_STEPS:]}) + "\n")
            channel.flush()

        clock = SlicedClock(wait, slice_steps=SLICE_STEPS, finish=lambda: None)
        lines: list[str] = []
        source = SyntheticLanguage(plan.config.workload, seed=0)
        result = run_steps(plan, source, World(), on_line=lines.append, on_step=clock.end_step, clock=clock)
        return result.totals.seconds / plan.last_step


def _slices(plan: RunPlan) -> float:
    """Return seconds a step of a duet's slices, from the first mark to the last; telling and answering is outside of them."""
    trainer = Trainer(plan, SyntheticLanguage(plan.config.workload, seed=0), World())
    spent = 0.0
    with mock.patch.object(Trainer, "step", _nothing):
        for _ in range(plan.last_step // DUET_STEPS):
            marks, _ = timed_steps(trainer, DUET_STEPS, torch.device("cpu"))
            spent += marks[-1] - marks[0]
    return spent / (plan.last_step // DUET_STEPS * DUET_STEPS)


def _real_steps(plan: RunPlan) -> list[float]:
    trainer = Trainer(plan, SyntheticLanguage(plan.config.workload, seed=0), World())
    times = []
    for _ in range(30):
        began = time.perf_counter()
        trainer.step()
        times.append(time.perf_counter() - began)
    return times


if __name__ == "__main__":
    main()
