"""The step loop: warm up, step, mark, log, save."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from perf.errors import CheckpointError
from perf.logs.rates import Mark, Rates
from perf.logs.runlog import EndLine, LogLine
from perf.signals import stop_requests
from perf.train.checkpoints import CheckpointStore
from perf.train.config import RunPlan
from perf.train.data import Source
from perf.train.devices import World, keep_freed_memory, synchronize
from perf.train.stepping import Stepping
from perf.train.steps import should_act
from perf.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What a run did.

    Attributes:
        plan: what it set out to do.
        end_step: `global_step` at the end.
        interrupted: whether it was asked to stop, by a signal or a log that cannot be written, at the latest while it
            saved.
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
        CheckpointError: the checkpoint does not fit the model, another run is using the directory, or the directory was
            deleted or replaced during the run.
        MainRankError: on the other ranks, any of these on the main one.
    """
    config, store = plan.config, plan.config.store()
    keep_freed_memory()
    with ExitStack() as held:
        if config.keep_checkpoints > 0:
            world.from_main(lambda: held.enter_context(_claimed(store, plan)))
        trainer = Trainer(plan, source, world, store)
        if config.start != "resume" and config.keep_checkpoints > 0:
            world.barrier()  # every rank has loaded what it needs
            put_away = world.from_main(store.put_away)
            if put_away and world.is_main:
                on_line(f"The checkpoints in {config.model_dir} were moved to {put_away}")
        trainer.warm_up()
        stepping = Stepping(trainer.step, world=world, start_step=plan.start_step, fail=trainer.fail)
        region = Region(
            global_batch_size=config.global_batch_size,
            last_step=plan.last_step,
            to_log=lambda step: should_act(global_step=step, last_step=plan.last_step, every=config.log_steps),
            to_save=lambda step: should_act(global_step=step, last_step=plan.last_step, every=config.checkpoint_steps),
        )
        end_step, interrupted, marks, checkpoint = timed_region(
            stepping,
            region,
            world,
            finish=lambda: synchronize(config.device),
            save=trainer.save,
            on_line=on_line,
            on_step=on_step,
            clock=clock,
        )
    return RunResult(
        plan=plan,
        end_step=end_step,
        interrupted=interrupted,
        losses=stepping.losses,
        marks=marks,
        checkpoint=checkpoint,
    )


@contextmanager
def _claimed(store: CheckpointStore, plan: RunPlan) -> Iterator[None]:
    """Hold the run's directory, if it still is what the run was planned from."""
    planned_from = plan.checkpoint
    with store.claim():
        newest = max(store.steps(), default=None)
        if plan.config.start != "fresh" and newest != (planned_from.global_step if planned_from else None):
            raise CheckpointError(
                f"{store.directory}: another run wrote step {newest} after this one was planned from step "
                f"{planned_from.global_step if planned_from else 0}; start again to go on from there"
            )
        yield


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """How far a loop goes, and at which steps it logs and saves.

    Attributes:
        global_batch_size: samples of a step.
        last_step: `global_step` after the last.
        to_log, to_save: whether a line or a checkpoint is due after a step.
    """

    global_batch_size: int
    last_step: int
    to_log: Callable[[int], bool]
    to_save: Callable[[int], bool] = lambda step: False


def timed_region(
    stepping: Stepping,
    region: Region,
    world: World,
    *,
    finish: Callable[[], object],
    save: Callable[[], Path | None] = lambda: None,
    on_line: Callable[[str], None],
    on_step: Callable[[], object],
    clock: Callable[[], float],
) -> tuple[int, bool, list[Mark], Path | None]:
    """Step, mark, log and save; the loop of every run, trained or measured.

    Args:
        stepping: what is advanced.
        region: how far, and when to log and save.
        world: the ranks; only the main one logs.
        finish: waits until the device has done all it was asked to.
        save: writes a checkpoint.
        on_line: receives each line of the log.
        on_step: called after each step.
        clock: monotonic, seconds.

    Returns:
        The last step made, whether a stop was requested, the marks, and the last checkpoint on this rank.
    """
    checkpoint: Path | None = None
    finish()
    marks = [Mark(samples=0, time_s=clock())]
    rates = Rates.since(marks[0])
    with stop_requests() as stop:
        say = _Listener(on_line, stop) if world.is_main else _ignore
        last_step = region.last_step
        while stepping.global_step < last_step:
            stepping.step()
            step = stepping.global_step
            to_log, to_save = region.to_log(step), region.to_save(step)
            # Several ranks must stop at the same step, and ask each other only where they wait for each other anyway.
            if (world.size == 1 or to_log or to_save) and world.any(stop.is_set()):
                last_step = step
                to_log = to_save = True
            if to_log or to_save:
                stepping.read()
            if to_log:
                finish()
                marks.append(Mark(samples=len(stepping.losses) * region.global_batch_size, time_s=clock()))
                rates = rates.at(marks[-1])
                assert rates.rate is not None
                loss = stepping.losses[-1]
                say(str(LogLine(global_step=step, loss=loss, rate=rates.rate, global_rate=rates.global_rate)))
            on_step()
            if to_save:
                checkpoint = save()
        interrupted = world.any(stop.is_set())  # also by a request that came during the last save
    first, last = marks[0], marks[-1]
    say(str(EndLine(samples=last.samples - first.samples, seconds=last.time_s - first.time_s)))
    return last_step, interrupted, marks, checkpoint


def _ignore(line: str) -> None:
    """Drop a line: a rank that is not the main one does not log."""


class _Listener:
    """Passes lines on. If they can no longer be (a closed pipe, a full disk), the run stops as asked to, and saves."""

    def __init__(self, on_line: Callable[[str], None], stop: threading.Event) -> None:
        self._on_line, self._stop = on_line, stop

    def __call__(self, line: str) -> None:
        try:
            self._on_line(line)
        except OSError:
            self._stop.set()
