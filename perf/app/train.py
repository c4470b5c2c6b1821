"""Train a built-in workload at each global batch size."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from perf.errors import UsageError
from perf.finding import find_root, near
from perf.printable import shown
from perf.report.training import run_heading, run_table, session_heading, stop_note
from perf.signals import EXIT_STOPPED
from perf.train.config import RunConfig, RunPlan, plan_run
from perf.train.data import Source, SyntheticLanguage
from perf.train.devices import World, process_group, resolve_device, resolve_precision
from perf.train.loop import RunResult, run_steps
from perf.train.text import TextCorpus
from perf.train.workloads import BERT_CONFIGS, default_workload


def train(
    *,
    workload: str | None,
    global_batch_size: Sequence[int] | None,
    text: Sequence[Path] | None,
    device: str,
    precision: str,
    model_dir: Path | None,
    log_steps: int | None,
    seed: int,
    **asked: Any,
) -> int:
    """Train, log and save each run, and return 0, or `EXIT_STOPPED` if one was stopped.

    None means what the workload says; `asked` are further fields of `RunConfig`.
    """
    with ExitStack() as group:
        try:  # a ValueError names a wrong argument; no training happens here
            on = resolve_device(device)
            world = group.enter_context(process_group(on))
            name = workload or default_workload(on.type)
            if name not in BERT_CONFIGS:
                raise ValueError(
                    f"--workload {name}: is not built in, and only those can be trained{near(name, BERT_CONFIGS)}"
                )
            config = BERT_CONFIGS[name]
            sizes = global_batch_size or config.global_batch_sizes
            if model_dir is not None and len(sizes) > 1:
                raise ValueError(
                    f"--model-dir {model_dir} is the directory of one run, and {len(sizes)} batch sizes make "
                    f"{len(sizes)} runs; give one --global-batch-size, or no --model-dir for a directory each"
                )
            if len(set(sizes)) < len(sizes):
                raise ValueError(f"--global-batch-size {' '.join(map(str, sizes))}: each size once")
            if not any(asked[limit] for limit in ("max_steps", "num_steps", "num_epochs")):
                asked["max_steps"] = config.max_steps
            parent = shown(find_root()) / "runs" / (name + ("-text" if text else ""))
            runs = [
                RunConfig(
                    workload=config,
                    global_batch_size=size,
                    model_dir=model_dir or parent / f"gbs-{size}",
                    device=on,
                    precision=resolve_precision(precision, on),
                    log_steps=log_steps or config.log_steps,
                    seed=seed,
                    **asked,
                )
                for size in sizes
            ]
            source = TextCorpus(list(text), config, seed=seed) if text else SyntheticLanguage(config, seed=seed)
            # All are planned before the first one starts: a run that cannot start is told at once.
            plans = [plan_run(run, source, world) for run in runs]
        except ValueError as error:
            raise UsageError(error) from None
        if world.is_main:
            print(session_heading(runs[0], source, world))
        results: list[RunResult] = []
        try:
            for plan in plans:
                results.append(_run(plan, source, world))
                if results[-1].interrupted:
                    break
        finally:  # what was measured is shown, also when a later run fails
            if world.is_main and results:
                print(f"\n{run_table(plans[: len(results)], results)}")
        if not results[-1].interrupted:
            return 0
        if world.is_main:
            print(stop_note(plans[len(results) - 1], results[-1], plans[len(results) :]))
        return EXIT_STOPPED


def _run(plan: RunPlan, source: Source, world: World) -> RunResult:
    if world.is_main:
        print(f"\n{run_heading(plan)}")
    with tqdm(
        total=plan.last_step - plan.start_step,
        unit="step",
        leave=False,
        delay=3,
        disable=None if world.is_main else True,  # None: shown only where stderr is a terminal
    ) as bar:
        on_line = partial(bar.write, file=sys.stdout)
        return run_steps(plan, source, world, on_line=on_line, on_step=bar.update)
