"""Measuring with its progress shown: a bar on a terminal, lines on the way, then the logs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from perf.errors import MeasureError
from perf.judge.duets import DuetResult, run_duet
from perf.judge.fitness import with_fitness
from perf.measure.duet import Duet, Mode, choose_mode
from perf.measure.runs import RunSpec, measure
from perf.measure.sides import Recipe, prepared
from perf.records.pairs import Pair
from perf.records.sessions import MeasuredRun, Session
from perf.records.wire import SideSpec
from perf.report.bench import log_blocks, warmup_note
from perf.report.duet import duet_heading
from perf.signals import stopped_by_signals
from perf.train.workloads import Workload


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
        with stopped_by_signals():
            session = with_fitness(
                measure(specs, num_rounds=num_rounds, rng=rng, environ=environ, on_slice=bar.update, on_round=on_round)
            )
    print(f"\n{log_blocks(session)}\n\n{warmup_note(session)}\n")
    return session


def duet_shown(
    recipes: tuple[Recipe, Recipe],
    workload: Workload,
    sizes: Sequence[int],
    *,
    precision: str,
    threshold: float,
    budget_s: float,
    environ: Mapping[str, str],
    mode: Mode | None = None,
) -> DuetResult:
    """Make both sides, compare them, and remove what was made.

    Args:
        recipes: of the baseline and the candidate.
        workload: what both train.
        sizes: at which global batch sizes.
        precision: "auto" lets each side choose.
        threshold: the smallest change that matters, a fraction.
        budget_s: for each batch size, seconds.
        environ: what the sides' environments are built on.
        mode: None for the one that suits the machine.

    Raises:
        MeasureError: a side cannot be made, or failed.
        KeyboardInterrupt: INT, TERM or HUP came; what was made is removed, and later ones do not interrupt that.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    chosen, reason = choose_mode(
        [{**recipe.environ} for recipe in recipes], num_gpus=torch.cuda.device_count(), cores=cores
    )
    if mode not in (None, chosen):
        chosen, reason = mode, f"as asked ({chosen} would suit: {reason})"
    if chosen is Mode.SIMULTANEOUS and (len(cores) < 2 or not hasattr(os, "sched_setaffinity")):
        raise MeasureError(f"--mode {chosen}: needs two cores and a system that can pin to them; leave it out")
    with stopped_by_signals(), ExitStack() as stack:
        sides = (
            stack.enter_context(prepared(recipes[0], "baseline", environ)),
            stack.enter_context(prepared(recipes[1], "candidate", environ)),
        )
        print(f"\n{duet_heading(workload.name, sizes, sides, chosen, reason, budget_s)}", flush=True)
        specs = {
            size: SideSpec(
                workload=workload,
                global_batch_size=size,
                device="auto",
                precision=precision,
                seed=0,
                num_threads=len(cores) // 2 if chosen is Mode.SIMULTANEOUS else 0,
            )
            for size in sizes
        }
        duet = Duet(sides, specs, mode=chosen, cores=cores, rng=np.random.default_rng())
        total_s = budget_s * len(sizes)
        # None: only on a terminal
        with tqdm(total=round(total_s), unit="s", leave=False, disable=None, bar_format=_BAR) as bar:
            return run_duet(
                duet,
                mode_reason=reason,
                threshold=threshold,
                budget_s=total_s,
                on_pair=_PairsShown(bar, total_s),
            )


_BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.0f} of {total} s"


REPORTS = 4
"""How often a duet says where things stand."""


class _PairsShown:
    """Moves the bar with each pair, and prints where things stand after each quarter of the budget."""

    def __init__(self, bar: tqdm[Any], total_s: float) -> None:
        self._bar, self._total_s, self._report = bar, total_s, 1
        self._effects: dict[int, list[float]] = {}

    def __call__(self, pair: Pair) -> None:
        self._effects.setdefault(pair.global_batch_size, []).append(pair.effect)
        self._bar.update(min(pair.ended_s, self._total_s) - self._bar.n)
        if pair.ended_s < self._total_s * self._report / REPORTS:
            return
        self._report = int(REPORTS * pair.ended_s / self._total_s) + 1
        so_far = (
            f"{size}: {np.expm1(np.median(effects)):+.1%} in {len(effects)} pairs"
            for size, effects in sorted(self._effects.items())
        )
        self._bar.write(f"after {pair.ended_s:.0f} of {self._total_s:.0f} s: {'; '.join(so_far)}", file=sys.stdout)
        sys.stdout.flush()
