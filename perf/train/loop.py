"""The step loop: warm up, step, mark, log, save."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct

from perf.errors import CheckpointError
from perf.logs.runlog import EndLine, LogLine, Mark, Rates
from perf.signals import stop_requests
from perf.train.checkpoints import CheckpointStore
from perf.train.config import RunPlan
from perf.train.data import Source
from perf.train.devices import World, keep_freed_memory, synchronize
from perf.train.stepping import Stepping, should_act
from perf.train.trainer import Trainer


class RunResult(Struct, frozen=True, kw_only=True):
    """What a run did."""

    end_step: int  # `global_step` at the end
    # whether it was asked to stop, by a signal or a log that cannot be written, at the latest while it saved
    interrupted: bool
    losses: list[float]  # the loss of every step, nats
    totals: EndLine  # samples processed, and the seconds from the beginning of the timed region to the last log line
    checkpoint: Path | None  # the last one written on this rank, if any


def run_steps(
    plan: RunPlan,
    source: Source,  # of samples
    world: World,  # only its main rank logs and saves
    *,
    on_line: Callable[[str], None] = print,  # receives each line of the log
    on_step: Callable[[], object] = lambda: None,  # called after each step
    clock: Callable[[], float] = time.perf_counter,  # monotonic, seconds
) -> RunResult:
    """Train as planned.

    The clock starts after a warm-up whose gradients are dropped, so that neither memory nor compilation is timed and
    no result depends on it. It is read only where a log line is due, after the device has finished, together with
    the count of samples. A window that follows a checkpoint includes its writing; the last checkpoint follows the
    last mark. If a line cannot be written (a closed pipe, a full disk), the run stops and saves.

    Raises:
        NonFiniteError: a loss or a weight was NaN or infinite; nothing was saved since.
        CheckpointError: the checkpoint does not fit the model, another run is using the directory, or the directory was
            deleted or replaced during the run.
        MainRankError: on the other ranks, any of these on the main one.
    """
    config, last_step = plan.config, plan.last_step
    checkpoint: Path | None = None
    keep_freed_memory()
    with ExitStack() as held:
        trainer = _warmed_up(held, plan, source, world, on_line)
        stepping = Stepping(trainer.step, world=world, start_step=plan.start_step, fail=trainer.fail)
        synchronize(config.device)
        began = Mark(samples=0, time_s=clock())
        rates = Rates(began=began, latest=began)
        stop = held.enter_context(stop_requests())

        def say(line: object) -> None:
            try:
                if world.is_main:
                    on_line(str(line))
            except OSError:
                stop.set()

        while stepping.global_step < last_step:
            stepping.step()
            step = stepping.global_step
            line_due, checkpoint_due = (
                should_act(global_step=step, last_step=plan.last_step, every=every)
                for every in (config.log_steps, config.checkpoint_steps)
            )
            # Several ranks must stop at the same step, and ask each other only where they wait for each other anyway.
            if (world.size == 1 or line_due or checkpoint_due) and world.any(stop.is_set()):
                last_step = step
                line_due = checkpoint_due = True
            if line_due or checkpoint_due:
                stepping.read()
            if line_due:
                synchronize(config.device)
                rates = rates.at(Mark(samples=len(stepping.losses) * config.global_batch_size, time_s=clock()))
                loss = stepping.losses[-1]
                say(LogLine(global_step=step, loss=loss, rate=rates.rate, global_rate=rates.global_rate))
            on_step()
            if checkpoint_due:
                checkpoint = trainer.save()
        interrupted = world.any(stop.is_set())  # also by a request that came during the last save
        totals = EndLine(samples=rates.latest.samples, seconds=rates.latest.time_s - began.time_s)
    say(totals)
    return RunResult(
        end_step=stepping.global_step,
        interrupted=interrupted,
        losses=stepping.losses,
        totals=totals,
        checkpoint=checkpoint,
    )


def _warmed_up(held: ExitStack, plan: RunPlan, source: Source, world: World, on_line: Callable[[str], None]) -> Trainer:
    """Return what trains; until `held` ends, no other run uses its directory, whose checkpoints a fresh start moves."""
    store, keeps = plan.config.store(), plan.config.keep_checkpoints > 0
    if keeps:
        world.from_main(lambda: _claim(held, store, plan))
    trainer = Trainer(plan, source, world, store)
    if keeps and plan.config.start != "resume":
        world.barrier()  # every rank has loaded what it needs
        put_away = world.from_main(store.put_away)
        if put_away and world.is_main:
            on_line(f"The checkpoints in {store.directory} were moved to {put_away}")
    trainer.warm_up()
    return trainer


def _claim(held: ExitStack, store: CheckpointStore, plan: RunPlan) -> None:
    """Hold the run's directory, if it still is what the run was planned from."""
    held.enter_context(store.claim())
    newest, planned = max(store.steps(), default=0), plan.checkpoint.facts.global_step if plan.checkpoint else 0
    if plan.config.start != "fresh" and newest != planned:
        raise CheckpointError(
            f"{store.directory}: another run wrote step {newest} after this one was planned from step {planned}; "
            "start again to go on from there"
        )
