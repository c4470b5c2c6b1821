"""The command that compares two versions side by side."""

import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from perf.app.report import publish
from perf.app.side_by_side import baseline_recipe, compared
from perf.app.what import What, here, what
from perf.errors import EXIT_PROBLEM, BaselineError, PerfError, UsageError
from perf.judge.duets import DuetResult
from perf.measure.sides import Recipe, last_other_commit, parse_recipe
from perf.printable import emphasized, printable, shown, tool
from perf.records.baselines import KEY, Baseline, load_baseline
from perf.records.documents import write_json
from perf.report.duet import duet_report, duet_text
from perf.report.sections import Report
from perf.signals import EXIT_STOPPED

EXIT_DIFFERS, EXIT_INCONCLUSIVE = 1, 4

THRESHOLD = 0.02  # the smallest change that matters side by side, where neither the command nor the workload says


def duet(
    *,
    baseline: Sequence[str] | None = None,  # the parts of its SPEC; None for the last commit that is another one
    candidate: Sequence[str] | None = None,  # the parts of its SPEC; None for the working tree
    threshold: float | None = None,  # the smallest change that matters, a fraction; None for the workload's, or 2 %
    json: Path | None = None,  # where to keep the raw values
    **asked_for: Any,  # what both train, one workload after the other, as in `what`
) -> int:
    """Compare two sides, say what differs, and return the exit code; the help of `stepmark` lists them."""
    # Before minutes are spent on what could not be kept.
    if json and (json.is_dir() or any(path.is_file() for path in json.parents)):
        raise UsageError(f"--json {json}: no file can be written there; name another")
    asked = what(**asked_for)
    if json and len(asked) > 1:
        raise UsageError(f"--json {json}: is for one workload, and there are {len(asked)}; name one: --workload")
    try:
        before = baseline or [f"git:{last_other_commit(asked[0].root, candidate in (None, ['self']))}"]
        recipes = parse_recipe(before), parse_recipe(candidate or ["self"])
    except ValueError as error:
        raise UsageError(error) from None
    codes: list[int] = []
    said: list[tuple[Report, dict[str, Any]]] = []
    for one in asked:
        if EXIT_STOPPED in codes:
            break
        try:
            codes.append(_duet(one, recipes, threshold, json, said))
        except PerfError as error:
            if len(asked) == 1:
                raise
            print(f"{one.target.id}: {printable(str(error))}", file=sys.stderr)  # the others are compared all the same
            codes.append(EXIT_PROBLEM)
    return min(codes, key=[EXIT_STOPPED, EXIT_DIFFERS, EXIT_PROBLEM, EXIT_INCONCLUSIVE, 0].index)


def _duet(
    asked: What,
    recipes: tuple[Recipe, Recipe],
    threshold: float | None,
    json: Path | None,
    said: list[tuple[Report, dict[str, Any]]],  # of the workloads before, with their raw values: one page has all
) -> int:
    promoted = _promoted(asked) if any(recipe.is_baseline for recipe in recipes) else None
    first, second = (
        baseline_recipe(recipe, promoted) if promoted and recipe.is_baseline else recipe for recipe in recipes
    )
    result = compared((first, second), asked, threshold=threshold or asked.target.workload.threshold or THRESHOLD)
    show(result, asked, json, said)
    return exit_code(result)


def show(result: DuetResult, asked: What, json: Path | None, said: list[tuple[Report, dict[str, Any]]]) -> None:
    """Print a duet, keep its raw values in `json`, if any, and add it to the page of those in `said`."""
    date, command = datetime.now(UTC).isoformat(timespec="seconds"), f"{tool()} {shlex.join(sys.argv[1:])}"
    about = f"on {here().slug}, {date}"
    report = duet_report(result, title=asked.target.id, about=about, command=command)
    named = {"workload": asked.target.id, "date": date, "command": command, "reports": [msgspec.to_builtins(report)]}
    said.append((report, {**result.as_json(), **named}))
    sentence, _, rest = duet_text(result).partition("\nNext: ")
    is_bad = exit_code(result) not in (0, EXIT_INCONCLUSIVE)
    try:  # whichever of the two fails
        if json:
            write_json(json, {KEY: said[-1][1]})
    finally:
        print(f"\n{emphasized(sentence, is_bad=is_bad)}\nNext: {rest}")
    if json:
        print(f"raw values: {json}")
    stem = shown(asked.root / "runs" / "duet")
    try:
        print("\n".join(publish([one for one, _ in said], {one.title: values for one, values in said}, stem)))
    except OSError as error:
        print(f"{stem}: the page could not be written: {error}", file=sys.stderr)


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


def _promoted(asked: What) -> Baseline:
    found = load_baseline(asked.baseline_path)
    if found is None:
        file, _, name = asked.target.id.rpartition(":")
        is_collected = file.endswith((".py", ".toml"))
        tests = f"{file}::{name}" if is_collected else f"tests/benchmarks --perf-workload {asked.target.id}"
        precision = f" --perf-precision {asked.precision}" if asked.precision else ""
        raise BaselineError(
            f"{asked.baseline_path}: is not there: this machine has no baseline of {asked.target.id}; measure one: "
            f"python -m pytest {tests}{precision}, then {tool()} promote"
        )
    return found
