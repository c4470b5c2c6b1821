"""One run in a process of its own: ``python -m perf.runner.worker SPEC`` steps when told and answers in JSON lines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from perf.errors import PerfError
from perf.measure.runs import RunSpec
from perf.runner.counters import count_step, python_and_numpy
from perf.runner.machine import fingerprint
from perf.train.config import RunConfig, plan_run
from perf.train.data import SyntheticLanguage
from perf.train.devices import World, resolve_device, resolve_precision, synchronize
from perf.train.loop import run_steps

Say = Callable[[dict[str, Any]], None]


class SlicedClock:
    """Lets a run step in slices, when told to, and stands still in between.

    Attributes:
        step_s: seconds of each step so far.
    """

    def __init__(self, wait: Callable[[list[float]], None], *, slice_steps: int, finish: Callable[[], None]) -> None:
        """`wait` is given the steps so far and returns when the next slice may begin; `finish` waits for the device."""
        self._wait, self._finish, self._slice_steps = wait, finish, slice_steps
        self._paused_s = 0.0
        self._step_began: float | None = None
        self.step_s: list[float] = []

    def __call__(self) -> float:
        """Return the seconds spent stepping; the first reading waits for the first slice."""
        if self._step_began is None:
            self._pause(time.perf_counter())
        return time.perf_counter() - self._paused_s

    def end_step(self) -> None:
        """Note the time of a step; at the end of a slice, wait for the next."""
        assert self._step_began is not None
        self._finish()
        now = time.perf_counter()
        self.step_s.append(now - self._step_began)
        self._step_began = now
        if len(self.step_s) % self._slice_steps == 0:
            self._pause(now)

    def _pause(self, now: float) -> None:
        self._wait(self.step_s)
        self._step_began = time.perf_counter()
        self._paused_s += self._step_began - now


def main() -> None:
    """Run what the only argument describes."""
    # What a library prints must not come between the answers.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(event: dict[str, Any]) -> None:
        channel.write(json.dumps(event) + "\n")

    try:
        _run(RunSpec.from_json(json.loads(sys.argv[1])), say)
    except PerfError as error:
        say({"event": "failed", "reason": str(error)})


def _run(spec: RunSpec, say: Say) -> None:
    device = resolve_device(spec.device)
    config = RunConfig(
        workload=spec.workload,
        global_batch_size=spec.global_batch_size,
        model_dir=Path("none"),
        device=device,
        precision=resolve_precision(spec.precision, device),
        seed=spec.seed,
        max_steps=spec.num_steps,
        log_steps=spec.slice_steps,
        keep_checkpoints=0,
        start="fresh",
    )
    source = SyntheticLanguage(spec.workload, seed=spec.seed)
    plan = plan_run(config, source, World())
    say(
        {
            "event": "described",
            "precision": config.precision,
            "device": device.type,
            "micro_batch_size": plan.micro_batch_size,
            "python": python_and_numpy(),
            "fingerprint": asdict(fingerprint()),
        }
    )

    def wait(step_s: list[float]) -> None:
        say({"event": "waiting", "step_s": step_s[-spec.slice_steps :]})
        _next_command()

    clock = SlicedClock(wait, slice_steps=spec.slice_steps, finish=lambda: synchronize(device))
    lines: list[str] = []
    result = run_steps(plan, source, World(), on_line=lines.append, on_step=clock.end_step, clock=clock)
    say({"event": "trained", "losses": result.losses, "lines": lines})
    _next_command()
    say({"event": "counted", "counters": asdict(count_step(plan, source))})


def _next_command() -> None:
    if not sys.stdin.readline():
        _stop()


def _stop() -> NoReturn:
    """Leave without a word: whoever gave the commands is gone."""
    os._exit(0)


if __name__ == "__main__":
    main()
