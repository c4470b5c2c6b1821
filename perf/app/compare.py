"""The commands that put two sides next to each other: ``python -m perf duet`` and ``calibrate``."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from perf.app.progress import duet_shown
from perf.arguments import positive, seconds, threshold
from perf.errors import BaselineError, UsageError
from perf.judge.duets import DuetResult, loss_problem
from perf.judge.sequential import LAST_SHARE
from perf.judge.stats import FAMILY_ERROR
from perf.judge.verdicts import Verdict
from perf.measure.duet import Mode
from perf.measure.sides import ROOT, Recipe, parse_recipe
from perf.records.baselines import BASELINES_DIR, KEY, Baseline, baseline_path, load_baseline
from perf.records.documents import write_json
from perf.records.sessions import configuration
from perf.report.duet import calibration, duet_report, headline
from perf.runner.machine import fingerprint
from perf.signals import EXIT_STOPPED
from perf.train.devices import PRECISIONS, default_precision, resolve_device, resolve_precision
from perf.train.workloads import WORKLOADS, Workload, default_workload

EXIT_DIFFERS, EXIT_PROBLEM, EXIT_INCONCLUSIVE = 1, 3, 4

SPECS = """each SPEC is one or more of:
  self                  the working tree, as it is
  git:REF               a checkout of that commit
  pip:NAME==VERSION,... these packages before what is installed (kept in ~/.cache/stepmark)
  python:/path          another interpreter, which has what is needed
  env:NAME=VALUE,...    environment variables
  baseline:             the promoted baseline's commit, torch and numpy
such as: --baseline git:HEAD~1 --candidate self env:MALLOC_ARENA_MAX=1"""


def run_duet_command(arguments: argparse.Namespace) -> int:
    """Compare two sides, say what differs, and return the exit code: 0 fine, 1 REGRESSED, 4 INCONCLUSIVE."""
    workload, sizes = _what(arguments)
    try:
        recipes = (parse_recipe(arguments.baseline), parse_recipe(arguments.candidate))
    except ValueError as error:
        raise UsageError(error) from None
    baseline = None
    is_upgrade = recipes[0].is_baseline and not recipes[1].is_baseline
    if any(recipe.is_baseline for recipe in recipes):
        baseline = _promoted(workload, _precision(arguments))
        recipes = (_resolved(recipes[0], baseline), _resolved(recipes[1], baseline))
    result = duet_shown(
        recipes,
        workload,
        sizes,
        precision=_precision(arguments),
        threshold=arguments.threshold,
        budget_s=arguments.budget,
        environ=os.environ,
        mode=arguments.mode,
    )
    _keep(arguments, result, workload, f"{duet_report(result)}\n\n{headline(result)}")
    if baseline and is_upgrade and not result.problem:
        print(_how_to_promote(recipes[1], baseline))
    return exit_code(result)


def exit_code(result: DuetResult) -> int:
    """Return what the command's exit code says of what was found: a signal first, then the worst verdict."""
    verdicts = {result.verdict(size) for size in result.work}
    if result.interrupted:
        return EXIT_STOPPED
    if verdicts & {Verdict.REGRESSED, Verdict.LOSSES_DIFFER}:
        return EXIT_DIFFERS
    if result.problem:
        return EXIT_PROBLEM
    return EXIT_INCONCLUSIVE if Verdict.INCONCLUSIVE in verdicts else 0


def run_calibrate_command(arguments: argparse.Namespace) -> int:
    """Measure this machine: the same side twice."""
    workload, sizes = _what(arguments)
    own = parse_recipe(["self"])
    # A threshold that nothing is within: unless chance finds a difference, the whole budget is spent.
    result = duet_shown(
        (own, own),
        workload,
        sizes,
        precision=_precision(arguments),
        threshold=1e-9,
        budget_s=arguments.budget,
        environ=os.environ,
        mode=arguments.mode,
    )
    effects = [judgement.effect for judgement in result.judgements.values()]
    level = FAMILY_ERROR * LAST_SHARE / len(sizes)
    budgets = {
        change: max((effect.budget_for(change, level=level) for effect in effects), default=math.inf)
        for change in (0.01, 0.02, 0.05)
    }
    if not all(map(math.isfinite, budgets.values())):
        budgets = {}
        print("too few pairs to say what budget finds what; give a larger --budget")
    notes = [calibration(result, budgets), result.problem, *map(loss_problem, result.work.values())]
    _keep(arguments, result, workload, "\n".join(filter(None, notes)))
    if result.interrupted:
        return EXIT_STOPPED
    return EXIT_PROBLEM if result.problem else 0


def _keep(arguments: argparse.Namespace, result: DuetResult, workload: Workload, report: str) -> None:
    """Write the raw values where they were asked for, and print the report, whichever of the two fails."""
    try:
        if arguments.json:
            write_json(arguments.json, duet_json(result, workload))
    finally:
        print(f"\n{report}")
    if arguments.json:
        print(f"raw values: {arguments.json}")


def duet_json(result: DuetResult, workload: Workload) -> dict[str, object]:
    """Return a duet as a file's content."""
    return {
        KEY: {
            **result.as_json(),
            "workload": workload.name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv),
        }
    }


def baseline_recipe(recipe: Recipe, baseline: Baseline) -> Recipe:
    """Return a recipe with the commit and the packages of a promoted baseline, as far as they differ from here.

    Raises:
        BaselineError: it was measured with uncommitted changes, or nobody knows at which commit.
    """
    if problem := baseline.rerun_problem:
        raise BaselineError(
            f"{baseline.path}: {problem}, and a clean commit is needed to run it again; "
            "measure one with tox run -e bench, then python -m perf promote"
        )
    commit = baseline.provenance["commit"]
    here, then = fingerprint().software, baseline.session.fingerprint.software
    packages = [
        f"{name}=={str(then[name]).partition('+')[0]}" for name in ("torch", "numpy") if then[name] != here[name]
    ]
    return replace(recipe, text=f"{recipe.text} {commit[:12]}", commit=commit, packages=tuple(packages))


def _resolved(recipe: Recipe, baseline: Baseline) -> Recipe:
    return baseline_recipe(recipe, baseline) if recipe.is_baseline else recipe


def _promoted(workload: Workload, precision: str) -> Baseline:
    device = resolve_device("auto")
    name = configuration(workload.name, device.type, resolve_precision(precision, device))
    path = baseline_path(Path(os.path.relpath(ROOT / BASELINES_DIR)), name, fingerprint())
    found = load_baseline(path)
    if found is None:
        raise BaselineError(
            f"{path}: is not there: this machine has no baseline of {name}; make one: tox run -e bench -- --perf-workload "
            f"{workload.name} --perf-precision {precision}, then python -m perf promote"
        )
    return found


def _how_to_promote(candidate: Recipe, baseline: Baseline) -> str:
    """Return the commands that make the candidate the baseline."""
    steps = [f"git checkout {candidate.commit}"] if candidate.commit else []
    steps += [f"python -m pip install {shlex.join(candidate.packages)}"] if candidate.packages else []
    environ = "".join(f"{name}={shlex.quote(value)} " for name, value in candidate.environ.items())
    python = shlex.quote(str(candidate.python or "python"))
    session = baseline.session
    steps.append(
        f"{environ}{python} -m pytest tests/benchmarks --perf-workload {session.workload} "
        f"--perf-precision {session.precision}"
    )
    reason = f"{candidate.text} instead of {baseline.provenance['commit'][:12]}"
    steps.append(f"{python} -m perf promote --reason {shlex.quote(reason)}")
    return "To make the candidate the baseline:\n" + "\n".join(f"  {step}" for step in steps)


def _what(arguments: argparse.Namespace) -> tuple[Workload, list[int]]:
    workload = WORKLOADS[arguments.workload] if arguments.workload else default_workload(resolve_device("auto").type)
    if arguments.json:
        if arguments.json.is_dir():
            raise UsageError(f"--json {arguments.json}: is a folder; name a file")
        if above := next((path for path in arguments.json.parents if path.exists() and not path.is_dir()), None):
            raise UsageError(f"--json {arguments.json}: {above} is a file, and a folder is needed; name another place")
    return workload, sorted(set(arguments.global_batch_size or workload.global_batch_sizes))


def _precision(arguments: argparse.Namespace) -> str:
    return str(arguments.precision or default_precision(resolve_device("auto").type))


def add_duet(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the arguments of ``duet``."""
    duet = commands.add_parser(
        "duet",
        help="compare two versions side by side",
        description="Train with two versions side by side, in many pairs of fresh runs, until a change as large as\n"
        "the threshold is found or excluded, or the budget is spent; then say where a difference comes from.",
        epilog=f"{SPECS}\n\nExit codes: 0 nothing is slower, 1 REGRESSED or LOSSES_DIFFER, 2 wrong usage, "
        "3 a side cannot be run, "
        "4 INCONCLUSIVE, 130 stopped.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    duet.add_argument("--baseline", nargs="+", required=True, metavar="SPEC", help="what to compare with")
    duet.add_argument("--candidate", nargs="+", required=True, metavar="SPEC", help="what to judge")
    duet.add_argument(
        "--threshold", type=threshold, default=0.02, metavar="T", help="smallest change that matters (default: 2%%)"
    )
    _add_common(duet, budget=120)


def add_calibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the arguments of ``calibrate``."""
    calibrate = commands.add_parser(
        "calibrate",
        help="measure how small a change this machine can show",
        description="Run the working tree against itself, and say how much runs spread here and what budget finds what.",
        allow_abbrev=False,
    )
    _add_common(calibrate, budget=60)


def _add_common(parser: argparse.ArgumentParser, *, budget: int) -> None:
    parser.add_argument(
        "--workload", choices=WORKLOADS, metavar="W", help="default: pico on CPU, bert-large-msl128 on CUDA"
    )
    parser.add_argument(
        "--global-batch-size", type=positive, nargs="+", metavar="B", help="default: the workload's three"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="default: fp32 on a CPU, as in the bench; auto on a GPU"
    )
    parser.add_argument(
        "--budget", type=seconds, default=float(budget), metavar="S",
        help=f"time for each batch size, such as 90s or 5m (default: {budget}s)",
    )  # fmt: skip
    parser.add_argument(
        "--mode", type=Mode, choices=list(Mode), metavar="M",
        help="simultaneous (half the cores each) or alternating (default: what suits the machine)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all raw values in this file")
