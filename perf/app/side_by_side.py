"""Compare two sides: make them, make pairs until all is decided, show the progress, locate a difference."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from msgspec.structs import replace
from tqdm import tqdm

from perf.app.what import What, here, noted_load
from perf.commands import Command
from perf.errors import BaselineError, MeasureError
from perf.judge import duets
from perf.judge.attribution import attribute_difference, phase_totals
from perf.judge.duets import DuetResult
from perf.judge.stats import FAMILY_ERROR
from perf.measure.duet import RUNS_PER_PAIR, Duet, choose_mode, usable_cores
from perf.measure.sides import Recipe, prepared
from perf.printable import tool
from perf.records.baselines import Baseline
from perf.records.sessions import FEWEST_STARTS, Mode, Pair
from perf.records.wire import CaseSpec
from perf.report.duet import duet_heading
from perf.report.sections import duration
from perf.signals import stopped_by_signals

REPORTS = 4  # how often a duet says where things stand

_BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.0f} of {total} s"


def baseline_recipe(recipe: Recipe, baseline: Baseline) -> Recipe:
    """Return a recipe with the commit of a promoted baseline, and its packages where they differ from here.

    Raises BaselineError: it was measured with uncommitted changes, or nobody knows at which commit.
    """
    if problem := baseline.rerun_problem:
        advice = f"commit, measure again, then {tool()} promote"
        raise BaselineError(f"{baseline.path}: {problem}, and a clean commit is needed to run it again; {advice}")
    commit = baseline.provenance["commit"]
    installed, then = here().software, baseline.session.fingerprint.software
    changed = [name for name in ("torch", "numpy") if then[name] != installed[name]]
    packages = tuple(f"{name}=={str(then[name]).partition('+')[0]}" for name in changed)
    return replace(recipe, text=f"{recipe.text} {commit[:12]}", commit=commit, packages=packages)


def compared(
    recipes: tuple[Recipe, Recipe],  # of the baseline and the candidate; `is_baseline` has been resolved
    asked: What,
    *,
    threshold: float,
    **options: Any,
) -> DuetResult:
    """Make both sides, compare them, and remove what was made; `options` and the threshold are as for `run_duet`.

    Raises:
        MeasureError: a side cannot be made, or failed.
        KeyboardInterrupt: INT, TERM or HUP came; what was made is removed, and later ones do not interrupt that.
    """
    cores = usable_cores()
    num_gpus = int(here().hardware["num_gpus"])
    mode, reason = choose_mode([recipe.environ for recipe in recipes], num_gpus=num_gpus, cores=cores)
    command = asked.target.workload if isinstance(asked.target.workload, Command) else None
    if command:
        mode, reason = Mode.ALTERNATING, "whole runs of a command, in turns"
    elif asked.mode not in (None, mode):
        mode, reason = Mode(asked.mode), f"as asked ({mode} would suit: {reason})"
    if mode is Mode.SIMULTANEOUS and (len(cores) < 2 or not hasattr(os, "sched_setaffinity")):
        raise MeasureError(f"--mode {mode}: needs two cores and a system that can pin to them; leave it out")
    with stopped_by_signals(), ExitStack() as stack:
        first = stack.enter_context(prepared(recipes[0], "baseline", asked.root, asked.target.id, asked.environ))
        second = stack.enter_context(prepared(recipes[1], "candidate", asked.root, asked.target.id, asked.environ))
        noted_load()
        texts = (first.text, second.text)
        heading = duet_heading(asked.target.id, asked.sizes, texts, mode, reason, asked.budget_s)
        print(f"\n{heading}", flush=True)
        duet = Duet(
            (first, second),
            {size: CaseSpec(global_batch_size=size, precision=asked.precision) for size in asked.sizes},
            mode=mode,
            cores=cores,
            num_threads=len(cores) // 2 if mode is Mode.SIMULTANEOUS else 0,
            command_steps=options.pop("command_steps", None) or (command.num_steps if command else 0),
            rng=np.random.default_rng(),
        )
        budget_s = asked.budget_s * len(asked.sizes)
        # None: only on a terminal
        with tqdm(total=round(budget_s), unit="s", leave=False, disable=None, bar_format=_BAR) as bar:
            show = partial(_show, bar)
            result = run_duet(duet, mode_reason=reason, threshold=threshold, budget_s=budget_s, on_pair=show, **options)
        commits = " ".join(recipe.commit for recipe in recipes if recipe.commit)
        reverse = "-R " if recipes[1].commit and not recipes[0].commit else ""  # from the baseline to the candidate
        show_change = f"git diff {reverse}{commits}" if commits else ""
        return replace(result, show_change=show_change, sample=asked.target.workload.sample)


def _show(bar: "tqdm[Any]", pairs: Sequence[Pair], budget_s: float) -> None:
    before_s, now_s = [0.0, *(pair.ended_s for pair in pairs)][-2:]
    bar.total = round(budget_s)
    bar.update(min(now_s, budget_s) - bar.n)
    if int(REPORTS * now_s / budget_s) == int(REPORTS * before_s / budget_s):
        return
    so_far = []
    for size in sorted({pair.global_batch_size for pair in pairs}):
        effects = [pair.effect for pair in pairs if pair.global_batch_size == size]
        so_far.append(f"{size}: {np.expm1(np.median(effects)):+.1%} in {len(effects)} pairs")
    bar.write(f"at most {duration(max(0.0, budget_s - now_s))} left: {'; '.join(so_far)}", file=sys.stdout)
    sys.stdout.flush()


def run_duet(
    duet: Duet,
    *,
    mode_reason: str,  # why the duet has its mode
    threshold: float,  # the smallest change that matters, a fraction
    budget_s: float,  # for all batch sizes together; comparing the work and locating a difference come on top
    # called after each pair with all so far, and the whole budget
    on_pair: Callable[[Sequence[Pair], float], object] = lambda pairs, budget_s: None,
    error: float = FAMILY_ERROR,  # how often it may find a change where there is none
    centre: float = 0.0,  # the logarithm of the effect that counts as no change; of another, no difference is located
    is_timed: bool = True,  # whether more than losses and work is compared
    budget_option: str = duets.DUET_BUDGET,  # how the tool at hand is given a budget
) -> DuetResult:
    """Compare two sides until every batch size is decided or the budget is spent.

    A side that fails after the first pair, or Ctrl-C, ends the duet; the result has the pairs so far.

    Raises:
        MeasureError: a side failed before there was a pair, or the budget is too short for the runs of a command.
    """
    work = duet.work()
    # Where the same software gives other losses it is another training, whose times do not matter.
    alike = [
        size for size in work if not duets.loss_problem(work[size]) or duets.software_differences(work[size])
    ] * is_timed
    budget_s *= len(alike) / len(work)
    if duet.is_whole and alike:
        _require_budget([duet.run_s[size] for size in alike], budget_s, budget_option)
    decisions = duets.Decisions(alike, threshold=threshold, budget_s=budget_s, error=error)
    pairs: list[Pair] = []
    phases, contributions = {}, {}
    stop: KeyboardInterrupt | MeasureError | None = None

    def keep(pair: Pair) -> None:
        pairs.append(pair)
        on_pair(pairs, budget_s)

    try:
        while sizes := decisions.undecided:
            new = duet.start(sizes, budget_s=budget_s, on_pair=keep)
            decisions.add([replace(pair, effect=pair.effect - centre) for pair in new], ended_s=duet.elapsed_s)
        if not (centre or duet.is_whole) and (size := duets.size_to_attribute(work, decisions.judgements)) is not None:
            visits = duet.attribution(size)
            phases[size], contributions[size] = phase_totals(*visits), attribute_difference(*visits)
    except (KeyboardInterrupt, MeasureError) as failed:
        if not pairs:
            raise
        stop = failed
    work = {
        size: duets.with_reruns(work[size], [pair for pair in pairs if pair.global_batch_size == size]) for size in work
    }
    interrupted = isinstance(stop, KeyboardInterrupt)
    reason = "stopped by a signal" if interrupted else str(stop)
    ended_early = stop and decisions.undecided
    return DuetResult(
        sides=(duet.sides[0].text, duet.sides[1].text),
        mode=duet.mode,
        mode_reason=mode_reason,
        threshold=threshold,
        budget_s=budget_s,
        work=work,
        pairs=pairs,
        judgements=decisions.judgements,
        phases=phases,
        contributions=contributions,
        start_s=duet.start_s,
        problem=f"ended after {len(pairs)} pairs: {reason}" if ended_early else "",
        attribution_problem=f"where the time differs is not known: {reason}" if stop and not ended_early else "",
        interrupted=interrupted,
        budget_option=budget_option,
    )


def _require_budget(run_s: Sequence[float], budget_s: float, budget_option: str) -> None:
    """Say what a duet of commands needs, before it is spent. Raises MeasureError: it has less."""
    needed_s = sum(RUNS_PER_PAIR * FEWEST_STARTS * seconds for seconds in run_s)
    each = f"a run takes about {duration(max(run_s))}, and a verdict needs {RUNS_PER_PAIR * FEWEST_STARTS} of each size"
    if needed_s > budget_s:
        raise MeasureError(f"{each}: give it {budget_option.format(math.ceil(needed_s / len(run_s)))}")
    print(f"{each.capitalize()}: at least {duration(needed_s)} in all.", flush=True)
