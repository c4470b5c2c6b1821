"""Measuring with its progress shown: a bar on a terminal, a line for each round, then the logs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from perf.measure.marks import MeasuredRun, Session
from perf.measure.runs import RunSpec, measure
from perf.report.bench import log_blocks, warmup_note


def measure_shown(specs: Sequence[RunSpec], *, num_rounds: int, environ: Mapping[str, str]) -> Session:
    """Measure as `perf.measure.runs.measure` does, in an order of slices that differs each time."""
    first = specs[0]
    sizes = ", ".join(str(spec.global_batch_size) for spec in specs)
    heading = f"{first.workload.name} at {sizes}: {num_rounds} fresh processes each, {first.num_steps} steps, in turns"
    print(f"\n{heading}", flush=True)  # a log in a file must show that it goes on, too
    num_slices = num_rounds * len(specs) * first.num_steps // first.slice_steps
    num_done = 0
    with tqdm(total=num_slices, unit="slice", leave=False, delay=1, disable=None) as bar:  # None: only on a terminal

        def on_round(runs: Mapping[int, MeasuredRun]) -> None:
            nonlocal num_done
            num_done += 1
            rates = (f"{size}: {size * len(run.step_s) / sum(run.step_s):,.0f}" for size, run in runs.items())
            bar.write(f"run {num_done} of {num_rounds}: {', '.join(rates)} samples/sec", file=sys.stdout)
            sys.stdout.flush()

        rng = np.random.default_rng()
        session = measure(
            specs, num_rounds=num_rounds, rng=rng, environ=environ, on_slice=bar.update, on_round=on_round
        )
    print(f"\n{log_blocks(session)}\n\n{warmup_note(session)}\n")
    return session
