"""The step loop: warm up, step, mark, log, save."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from perf.train.config import RunPlan
from perf.train.data import Source
from perf.train.devices import World, keep_freed_memory, synchronize
from perf.train.rates import Mark, Rates
from perf.train.runlog import EndLine, LogLine
from perf.train.steps import should_act
from perf.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What a run did.

    Attributes:
        plan: what it set out to do.
        end_step: `global_step` at the end.
        interrupted: whether it was asked to stop (Ctrl-C, SIGTERM), at the latest during its last step.
        losses: the loss of every step, nats.
        marks: one where the timed region began, and one for each log line.
        checkpoint: the last one written on this rank, if any.
    """

    plan: RunPlan
    end_step: int
    interrupted: bool
    losses: list[float]
    marks: list[Mark]
    checkpoint: Path | None

    @property
    def totals(self) -> EndLine:
        """Samples processed, and the seconds from the first mark to the last."""
        first, last = self.marks[0], self.marks[-1]
        return EndLine(samples=last.samples - first.samples, seconds=last.time_s - first.time_s)


def run_steps(
    plan: RunPlan,
    source: Source,
    world: World,
    *,
    on_line: Callable[[str], None] = print,
    on_step: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> RunResult:
    """Train as planned.

    The clock starts after a warm-up whose gradients are dropped, so that neither memory nor compilation is timed and
    no result depends on it. It is read only where a log line is due, after the device has finished, together with
    the count of samples. A window that follows a checkpoint includes its writing; the last checkpoint follows the
    last mark.

    Args:
        plan: from `plan_run`.
        source: where samples come from.
        world: the ranks; only the main one logs and saves.
        on_line: receives each line of the log.
        on_step: called after each step.
        clock: monotonic, seconds.

    Raises:
        NonFiniteError: a loss or a weight was NaN or infinite; nothing was saved since.
        CheckpointError: the checkpoint does not fit the model.
    """
    config = plan.config
    say = on_line if world.is_main else lambda line: None
    keep_freed_memory()
    trainer = Trainer(plan, source, world)
    if config.start != "resume":
        world.barrier()  # every rank has loaded what it needs
        if world.is_main and (previous := config.store().put_away()):
            say(f"{config.model_dir} was moved to {previous}")
    trainer.warm_up()
    synchronize(config.device)

    losses: list[float] = []
    checkpoint: Path | None = None
    marks = [Mark(samples=0, time_s=clock())]
    rates = Rates.since(marks[0])
    with _stop_requests(world) as stop:
        last_step = plan.last_step
        while trainer.global_step < last_step:
            trainer.step()
            step = trainer.global_step
            if stop.is_set():
                last_step = step
            to_log = should_act(global_step=step, last_step=last_step, every=config.log_steps)
            to_save = should_act(global_step=step, last_step=last_step, every=config.checkpoint_steps)
            if to_log or to_save:
                losses += trainer.read_losses()
            if to_log:
                synchronize(config.device)
                marks.append(Mark(samples=len(losses) * config.global_batch_size, time_s=clock()))
                rates = rates.at(marks[-1])
                assert rates.rate is not None
                say(str(LogLine(global_step=step, loss=losses[-1], rate=rates.rate, global_rate=rates.global_rate)))
            on_step()
            if to_save:
                checkpoint = trainer.save()
    result = RunResult(
        plan=plan, end_step=last_step, interrupted=stop.is_set(), losses=losses, marks=marks, checkpoint=checkpoint
    )
    say(str(result.totals))
    return result


@contextmanager
def _stop_requests(world: World) -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop after the step at hand; the next one acts as usual.

    Several ranks would stop at different steps and wait for each other, so there signals act as usual from the start.
    """
    stop = threading.Event()
    if world.size > 1 or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, usual[signal.Signals(number)])

    for number in usual:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
