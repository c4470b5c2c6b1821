"""Training runs: what is about to run, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perf.logs.runlog import StartLine
from perf.report.sections import number, text_table

if TYPE_CHECKING:
    from perf.train.config import RunConfig, RunPlan
    from perf.train.data import Source
    from perf.train.devices import World
    from perf.train.loop import RunResult


def session_heading(config: RunConfig, source: Source, world: World) -> str:
    """Return what all runs of one command have in common."""
    import torch

    num_threads = torch.get_num_threads()
    threads = f", {num_threads} thread{'s' if num_threads > 1 else ''}" if config.device.type == "cpu" else ""
    ranks = f", {world.size} ranks" if world.size > 1 else ""
    compiled = ", compiled" if config.compile else ""
    return (
        f"{config.workload.name}: {config.workload.why}\n{source.name} data, {config.device.type}{threads}{ranks}, "
        f"{config.precision}{compiled}, seed {config.seed}, torch {torch.__version__}"
    )


def run_heading(plan: RunPlan) -> str:
    """Return what one run is about to do."""
    config = plan.config
    start = StartLine(
        global_batch_size=config.global_batch_size, first_step=plan.start_step + 1, last_step=plan.last_step
    )
    many = "es" if plan.grad_accum_steps > 1 else ""
    where = f", checkpoints in {config.model_dir}" if config.keep_checkpoints else ", no checkpoints"
    heading = f"{start} ({plan.grad_accum_steps} micro-batch{many} of {plan.micro_batch_size} each){where}"
    return "\n".join([heading, *(f"Note: {note}" for note in plan.notes)])


def run_table(plans: Sequence[RunPlan], results: Sequence[RunResult]) -> str:
    """Return one row for each run: its length, its rate over all of it, and its first and last loss."""
    # The rate of the whole run, samples/sec: the GlobalRate of a log line at its end.
    rates = [run.totals.samples / run.totals.seconds for run in results]
    sizes = [plan.config.global_batch_size for plan in plans]
    smallest = min(sizes)
    header = ("size", "steps", "samples", "seconds", "global rate", f"vs {smallest}", "first loss", "last loss")
    rows = [
        (
            str(size),
            number(len(run.losses), "d"),
            number(run.totals.samples, ",d"),
            number(run.totals.seconds, ".1f"),
            number(rate, ",.1f"),
            f"{number(rate / rates[sizes.index(smallest)], '.2f')}x",
            number(run.losses[0], ".4f"),
            number(run.losses[-1], ".4f"),
        )
        for run, size, rate in zip(results, sizes, rates, strict=True)
    ]
    return text_table(header, rows)


def stop_note(plan: RunPlan, result: RunResult, not_started: Sequence[RunPlan]) -> str:
    """Return where an interrupted run stopped, how to continue it, and what was not started."""
    config, last_step = plan.config, plan.last_step
    lines = [f"Global batch size {config.global_batch_size} was stopped at step {result.end_step} of {last_step}."]
    if result.checkpoint is None:
        lines.append("No checkpoint was kept, so it cannot be continued.")
    elif result.end_step < last_step:
        without = {"resume": "", "fresh": ", without --fresh", "weights": ", without --load weights"}[config.start]
        lines.append(
            f"To continue it: the same command with --global-batch-size {config.global_batch_size} and, instead of "
            f"any other limit, --max-steps {last_step}{without}."
        )
    if not_started:
        lines.append(f"Not started: {', '.join(str(other.config.global_batch_size) for other in not_started)}.")
    return "\n".join(lines)
