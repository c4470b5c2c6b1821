"""Train a built-in workload at each global batch size: what is about to run, the runs, and what came of them."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from perf.errors import UsageError
from perf.finding import find_root
from perf.logs.parsing import parse_line
from perf.logs.runlog import LogLine, StartLine
from perf.printable import shown, wrapped
from perf.report.sections import number, text_table
from perf.signals import EXIT_STOPPED
from perf.train.config import RunConfig, RunPlan, plan_run
from perf.train.data import Source, SyntheticLanguage
from perf.train.devices import World, join_ranks, resolve_device, resolve_precision
from perf.train.kernel import learning_rate
from perf.train.trainer import RunResult, run_steps
from perf.train.workloads import BERT_CONFIGS, default_workload


def train(
    *,
    workload: str | None,
    global_batch_size: Sequence[int] | None,
    device: str,
    precision: str,
    model_dir: Path | None,
    log_steps: int | None,
    tensorboard: Path | None,
    **asked: Any,
) -> int:
    """Train, log and save each run, and return 0, or `EXIT_STOPPED` if one was stopped.

    None means what the workload says; `asked` are further fields of `RunConfig`.
    """
    with ExitStack() as held:
        try:  # a ValueError names a wrong argument; no training happens here
            on = resolve_device(device)
            world = join_ranks(on, held)
            name = workload or default_workload(on.type)
            if name not in BERT_CONFIGS:
                raise ValueError(f"--workload {name}: only {', '.join(BERT_CONFIGS)} can be trained")
            config = BERT_CONFIGS[name]
            sizes = global_batch_size or config.global_batch_sizes
            if not (asked["max_steps"] or asked["num_steps"]):
                asked["max_steps"] = config.max_steps
            parent = shown(find_root()) / "runs" / name
            source = SyntheticLanguage(config, seed=asked["seed"])
            plans: list[RunPlan] = []
            for size in sizes:  # all are planned before the first one starts: one that cannot start is told at once
                run = RunConfig(
                    workload=config,
                    global_batch_size=size,
                    model_dir=model_dir or parent / f"gbs-{size}",
                    device=on,
                    precision=resolve_precision(precision, on),
                    log_steps=log_steps or config.log_steps,
                    **asked,
                )
                plans.append(plan_run(run, source, world, held))
            boards: list[Any] = []  # on the main rank, and where they were asked for
            if tensorboard:
                world.from_main(lambda: boards.extend(_boards(tensorboard, sizes)))
        except ValueError as error:
            raise UsageError(error) from None
        say: Callable[[str], None] = print if world.is_main else lambda text: None
        say(wrapped(_session_heading(plans[0].config, world)))
        results: list[RunResult] = []
        try:
            for plan, board in zip_longest(plans, boards):
                say(f"\n{wrapped(_run_heading(plan))}")
                with board or nullcontext() as scalars:
                    results.append(_run(plan, source, world, scalars))
                if results[-1].interrupted:
                    break
        finally:  # what was measured is shown, also when a later run fails
            if results:
                say(f"\n{run_table(plans[: len(results)], results)}")
        if not results[-1].interrupted:
            return 0
        say(wrapped(_stop_note(plans[len(results) - 1], results[-1])))
        return EXIT_STOPPED


def _boards(directory: Path, sizes: Sequence[int]) -> list[Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(f"--tensorboard: {error}; pip install 'stepmark[tensorboard]'") from None
    return [SummaryWriter(directory / f"gbs-{size}") for size in sizes]


def _run(plan: RunPlan, source: Source, world: World, scalars: Any) -> RunResult:
    with tqdm(
        total=plan.last_step - plan.start_step,
        unit="step",
        leave=False,
        delay=3,
        disable=None if world.is_main else True,  # None: shown only where stderr is a terminal
    ) as bar:

        def on_line(text: str) -> None:
            bar.write(text, file=sys.stdout)
            if scalars and isinstance(line := parse_line(text), LogLine):
                # The names that the reference stack gives them.
                rates = {"local_samples_per_sec": line.rate, "avg_samples_per_sec": line.global_rate}
                more = {"avg_steps_per_sec": line.global_rate / plan.config.global_batch_size}
                lr = learning_rate(plan.config.workload, line.global_step)
                for name, value in {"loss": line.loss, **rates, **more, "lr": lr}.items():
                    scalars.add_scalar(name, value, line.global_step)

        return run_steps(plan, source, world, on_line=on_line, on_step=bar.update)


def _session_heading(config: RunConfig, world: World) -> str:
    num_threads = torch.get_num_threads()
    threads = f", {num_threads} thread{'s' if num_threads > 1 else ''}" if config.device.type == "cpu" else ""
    ranks = f", {world.size} ranks" if world.size > 1 else ""
    compiled = ", compiled" if config.compile else ""
    return (
        f"{config.workload.name}: {config.workload.why}\nsynthetic data, {config.device.type}{threads}{ranks}, "
        f"{config.precision}{compiled}, seed {config.seed}, torch {torch.__version__}"
    )


def _run_heading(plan: RunPlan) -> str:
    config, first_step = plan.config, plan.start_step + 1
    start = StartLine(global_batch_size=config.global_batch_size, first_step=first_step, last_step=plan.last_step)
    many = "es" if plan.grad_accum_steps > 1 else ""
    where = f", checkpoints in {config.model_dir}" if config.keep_checkpoints else ", no checkpoints"
    heading = f"{start} ({plan.grad_accum_steps} micro-batch{many} of {plan.micro_batch_size} each){where}"
    return "\n".join([heading, *(f"Note: {note}" for note in plan.notes)])


def run_table(plans: Sequence[RunPlan], results: Sequence[RunResult]) -> str:
    """Return one row for each run: its length, its rate over all of it, and its first and last loss."""
    sizes = [plan.config.global_batch_size for plan in plans]
    # The rate of the whole run, samples/sec: the GlobalRate of a log line at its end.
    rates = [run.totals.samples / run.totals.seconds for run in results]
    base = sizes.index(min(sizes))
    header = ("size", "steps", "samples", "seconds", "global rate", f"vs {sizes[base]}", "first loss", "last loss")
    rows = []
    for size, run, rate in zip(sizes, results, rates, strict=True):
        totals, speedup = run.totals, f"{number(rate / rates[base], '.2f')}x"
        length = number(len(run.losses), "d"), number(totals.samples, ",d"), number(totals.seconds, ".1f")
        losses = number(run.losses[0], ".4f"), number(run.losses[-1], ".4f")
        rows.append((str(size), *length, number(rate, ",.1f"), speedup, *losses))
    return text_table(header, rows)


def _stop_note(plan: RunPlan, result: RunResult) -> str:
    size, last_step = plan.config.global_batch_size, plan.last_step
    note = f"Global batch size {size} was stopped at step {result.end_step} of {last_step}."
    if plan.config.keep_checkpoints == 0 or result.end_step == last_step:
        return note
    return (
        f"{note}\nTo continue it: the same command with --global-batch-size {size} and, instead of "
        f"any other limit, --fresh or --load, --max-steps {last_step}."
    )
