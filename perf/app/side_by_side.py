"""Compare two sides: make them, run the duet with its progress shown, and say what differs."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perf.app.machine import Here, here
from perf.app.workloads import own_workloads
from perf.errors import BaselineError, MeasureError, UsageError
from perf.finding import Found, find
from perf.project import find_root, shown, tool
from perf.signals import EXIT_STOPPED, stopped_by_signals

if TYPE_CHECKING:
    from tqdm import tqdm

    from perf.judge.duets import DuetResult
    from perf.measure.sides import Recipe
    from perf.records.baselines import Baseline
    from perf.records.pairs import Pair

EXIT_DIFFERS, EXIT_PROBLEM, EXIT_INCONCLUSIVE = 1, 3, 4

THRESHOLD = 0.02
"""The smallest change that matters side by side, where neither the command nor the workload says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class What:
    """What two sides train.

    Attributes:
        root: of the project.
        here: this machine.
        target: the workload.
        sizes: the global batch sizes.
        precision: "fp32", "bf16", or "auto" to let each side choose.
        budget_s: for each batch size, seconds.
        mode: "simultaneous" or "alternating"; None for what suits the machine.
        environ: what the sides' environments are built on.
    """

    root: Path
    here: Here
    target: Found
    sizes: Sequence[int]
    precision: str
    budget_s: float
    mode: str | None = None
    environ: Mapping[str, str]

    @property
    def baseline_path(self) -> Path:
        """Where this machine's baseline is, or would be, as a reader has it from here."""
        from perf.records.baselines import BASELINES_DIR, baseline_path
        from perf.records.sessions import configuration

        name = configuration(self.target.id, self.here.device, self.here.resolved(self.precision))
        return baseline_path(shown(self.root / BASELINES_DIR), name, self.here.fingerprint)

    def load_baseline(self) -> Baseline | None:
        """Read this machine's baseline; None where there is none.

        Raises:
            BaselineError: it is damaged.
        """
        from perf.records.baselines import load_baseline

        return load_baseline(self.baseline_path)


def what(
    *,
    workload: str | None = None,
    global_batch_size: Sequence[int] | None = None,
    precision: str | None = None,
    budget: float,
    mode: str | None = None,
) -> list[What]:
    """Return what a command's options ask for; None means what the workload or the machine says.

    Without a workload, that is each of those in the project's own ``bench_*.py``, or else the default one.

    Raises:
        UsageError: there is no such workload, or a file of workloads cannot be imported.
    """
    root, facts = find_root(), here(os.environ)
    if workload:
        targets = [find(workload, root)]
    else:
        targets, problems = own_workloads(root)
        if problems:
            raise UsageError("; ".join(problems))
    return [
        What(
            root=root,
            here=facts,
            target=target,
            sizes=sorted(set(global_batch_size or target.workload.global_batch_sizes)),
            precision=precision or target.workload.precision,
            budget_s=budget,
            mode=mode,
            environ=os.environ,
        )
        for target in targets or [find(facts.default_workload, root)]
    ]


def duet(
    *,
    baseline: Sequence[str] | None = None,
    candidate: Sequence[str] | None = None,
    threshold: float | None = None,
    json: Path | None = None,
    **asked_for: Any,
) -> int:
    """Compare two sides, say what differs, and return the exit code: 0 fine, 1 REGRESSED, 4 INCONCLUSIVE.

    Args:
        baseline: the parts of its SPEC; None for the last commit, or where the working tree is that, the one before.
        candidate: the parts of its SPEC; None for the working tree.
        threshold: the smallest change that matters, a fraction; None for the workload's own, or 2 %.
        json: where to keep the raw values.
        asked_for: what both train, one workload after the other, as in `what`.

    Raises:
        UsageError: a SPEC is not understood, or `json` cannot be a file.
        PerfError: a side cannot be made or run.
    """
    from perf.measure.sides import last_other_commit, parse_recipe

    require_file(json)
    asked = what(**asked_for)
    if json and len(asked) > 1:
        names = ", ".join(one.target.id for one in asked)
        raise UsageError(f"--json {json}: is for one workload, and there are {names}; name one: --workload")
    try:
        specs = baseline or [f"git:{last_other_commit(asked[0].root, candidate is None)}"], candidate or ["self"]
        recipes = parse_recipe(specs[0]), parse_recipe(specs[1])
    except ValueError as error:
        raise UsageError(error) from None
    codes = []
    for one in asked:
        codes.append(_duet(one, recipes, threshold, json))
        if codes[-1] == EXIT_STOPPED:
            break
    return min(codes, key=[EXIT_STOPPED, EXIT_DIFFERS, EXIT_PROBLEM, EXIT_INCONCLUSIVE, 0].index)


def _duet(asked: What, recipes: tuple[Recipe, Recipe], threshold: float | None, json: Path | None) -> int:
    """Compare two sides on one workload, and return the exit code."""
    from perf.report.duet import duet_report

    promoted = _promoted(asked) if any(recipe.is_baseline for recipe in recipes) else None
    is_upgrade = recipes[0].is_baseline and not recipes[1].is_baseline
    first, second = (
        baseline_recipe(recipe, promoted, asked.here) if promoted and recipe.is_baseline else recipe
        for recipe in recipes
    )
    result = compared((first, second), asked, threshold=threshold or asked.target.workload.threshold or THRESHOLD)
    keep(json, result, asked.target, duet_report(result))
    if promoted and is_upgrade and not result.problem:
        print(_how_to_promote(second, promoted))
    return exit_code(result)


def exit_code(result: DuetResult) -> int:
    """Return what the command's exit code says of what was found: a signal first, then the worst verdict."""
    verdicts = {str(result.verdict(size)) for size in result.work}
    if result.interrupted:
        return EXIT_STOPPED
    if verdicts & {"REGRESSED", "LOSSES_DIFFER"}:
        return EXIT_DIFFERS
    if result.problem:
        return EXIT_PROBLEM
    return EXIT_INCONCLUSIVE if "INCONCLUSIVE" in verdicts else 0


def require_file(path: Path | None) -> None:
    """Raise a UsageError if raw values could not be written to `path`."""
    if path and path.is_dir():
        raise UsageError(f"--json {path}: is a folder; name a file")
    above = next((folder for folder in path.parents if folder.exists() and not folder.is_dir()), None) if path else None
    if above:
        raise UsageError(f"--json {path}: {above} is a file, and a folder is needed; name another place")


def keep(path: Path | None, result: DuetResult, target: Found, report: str) -> None:
    """Write the raw values where they were asked for, and print the report, whichever of the two fails."""
    from perf.records.documents import write_json

    try:
        if path:
            write_json(path, duet_json(result, target.id))
    finally:
        print(f"\n{report}")
    if path:
        print(f"raw values: {path}")


def duet_json(result: DuetResult, workload: str) -> dict[str, dict[str, Any]]:
    """Return a duet of a workload, by its id, as a file's content."""
    from perf.records.baselines import KEY

    date, command = datetime.now(UTC).isoformat(timespec="seconds"), shlex.join(sys.argv)
    return {KEY: {**result.as_json(), "workload": workload, "date": date, "command": command}}


def baseline_recipe(recipe: Recipe, baseline: Baseline, facts: Here | None = None) -> Recipe:
    """Return a recipe with the commit and the packages of a promoted baseline, as far as they differ from here.

    Raises:
        BaselineError: it was measured with uncommitted changes, or nobody knows at which commit.
    """
    if problem := baseline.rerun_problem:
        raise BaselineError(
            f"{baseline.path}: {problem}, and a clean commit is needed to run it again; "
            f"commit, measure again, then {tool()} promote"
        )
    commit = baseline.provenance["commit"]
    installed, then = (facts or here(os.environ)).fingerprint.software, baseline.session.fingerprint.software
    packages = [
        f"{name}=={str(then[name]).partition('+')[0]}" for name in ("torch", "numpy") if then[name] != installed[name]
    ]
    return replace(recipe, text=f"{recipe.text} {commit[:12]}", commit=commit, packages=tuple(packages))


def _promoted(asked: What) -> Baseline:
    found = asked.load_baseline()
    if found is None:
        raise BaselineError(
            f"{asked.baseline_path}: is not there: this machine has no baseline of {asked.target.id}; measure one: "
            f"python -m pytest {_tests(asked.target.id)} --perf-precision {asked.precision}, then {tool()} promote"
        )
    return found


def _how_to_promote(candidate: Recipe, baseline: Baseline) -> str:
    """Return the commands that make the candidate the baseline."""
    steps = [f"git checkout {candidate.commit}"] if candidate.commit else []
    steps += [f"python -m pip install {shlex.join(candidate.packages)}"] if candidate.packages else []
    environ = "".join(f"{name}={shlex.quote(value)} " for name, value in candidate.environ.items())
    python, session = shlex.quote(str(candidate.python or "python")), baseline.session
    steps.append(f"{environ}{python} -m pytest {_tests(session.workload)} --perf-precision {session.precision}")
    reason = f"{candidate.text} instead of {baseline.provenance['commit'][:12]}"
    steps.append(f"{python} -m perf promote --reason {shlex.quote(reason)}")
    return "To make the candidate the baseline:\n" + "\n".join(f"  {step}" for step in steps)


def _tests(workload: str) -> str:
    """Return the arguments of pytest that measure a workload."""
    file, _, name = workload.rpartition(":")
    return f"{file}::{name}" if file.endswith(".py") else f"tests/benchmarks --perf-workload {workload}"


def compared(recipes: tuple[Recipe, Recipe], asked: What, *, threshold: float) -> DuetResult:
    """Make both sides, compare them, and remove what was made.

    Args:
        recipes: of the baseline and the candidate; `is_baseline` has been resolved.
        asked: what both train.
        threshold: the smallest change that matters, a fraction.

    Raises:
        MeasureError: a side cannot be made, or failed.
        KeyboardInterrupt: INT, TERM or HUP came; what was made is removed, and later ones do not interrupt that.
    """
    import numpy as np
    from tqdm import tqdm

    from perf.app.duet import run_duet
    from perf.measure.busy import busy_share, load_note
    from perf.measure.duet import Duet, choose_mode, usable_cores
    from perf.measure.sides import prepared
    from perf.records.pairs import Mode
    from perf.records.wire import CaseSpec
    from perf.report.duet import duet_heading

    cores = usable_cores()
    num_gpus = int(asked.here.fingerprint.hardware["num_gpus"])
    mode, reason = choose_mode([{**recipe.environ} for recipe in recipes], num_gpus=num_gpus, cores=cores)
    if asked.mode not in (None, mode):
        mode, reason = Mode(asked.mode), f"as asked ({mode} would suit: {reason})"
    if mode is Mode.SIMULTANEOUS and (len(cores) < 2 or not hasattr(os, "sched_setaffinity")):
        raise MeasureError(f"--mode {mode}: needs two cores and a system that can pin to them; leave it out")
    with stopped_by_signals(), ExitStack() as stack:
        first, second = (
            stack.enter_context(prepared(recipe, name, asked.root, asked.target.id, asked.environ))
            for recipe, name in zip(recipes, ("baseline", "candidate"), strict=True)
        )
        if note := load_note(busy_share()):
            print(note)
        heading = duet_heading(asked.target.id, asked.sizes, (first, second), mode, reason, asked.budget_s)
        print(f"\n{heading}", flush=True)
        duet = Duet(
            (first, second),
            {size: CaseSpec(global_batch_size=size, precision=asked.precision) for size in asked.sizes},
            mode=mode,
            cores=cores,
            num_threads=len(cores) // 2 if mode is Mode.SIMULTANEOUS else 0,
            rng=np.random.default_rng(),
        )
        total_s = asked.budget_s * len(asked.sizes)
        # None: only on a terminal
        with tqdm(total=round(total_s), unit="s", leave=False, disable=None, bar_format=_BAR) as bar:
            result = run_duet(
                duet, mode_reason=reason, threshold=threshold, budget_s=total_s, on_pair=_PairsShown(bar, total_s)
            )
        commits = " ".join(_short(recipe.commit) for recipe in recipes if recipe.commit)
        return replace(result, show_change=f"git diff {commits}" if commits else "")


def _short(commit: str) -> str:
    """Return a revision as it is written; of a whole hash the front."""
    return commit[:12] if re.fullmatch(r"[0-9a-f]{40,64}", commit) else commit


_BAR = "{desc}{percentage:3.0f}%|{bar}| {n:.0f} of {total} s"

REPORTS = 4
"""How often a duet says where things stand."""


class _PairsShown:
    """Moves the bar with each pair, and prints where things stand after each quarter of the budget."""

    def __init__(self, bar: tqdm[Any], total_s: float) -> None:
        self._bar, self._total_s, self._report = bar, total_s, 1
        self._effects: dict[int, list[float]] = {}

    def __call__(self, pair: Pair) -> None:
        import numpy as np

        from perf.report.sections import duration

        self._effects.setdefault(pair.global_batch_size, []).append(pair.effect)
        self._bar.update(min(pair.ended_s, self._total_s) - self._bar.n)
        if pair.ended_s < self._total_s * self._report / REPORTS:
            return
        self._report = int(REPORTS * pair.ended_s / self._total_s) + 1
        so_far = (
            f"{size}: {np.expm1(np.median(effects)):+.1%} in {len(effects)} pairs"
            for size, effects in sorted(self._effects.items())
        )
        left = duration(max(0.0, self._total_s - pair.ended_s))
        self._bar.write(f"at most {left} left: {'; '.join(so_far)}", file=sys.stdout)
        sys.stdout.flush()
