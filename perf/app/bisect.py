"""Find the commit that changed a step: git's own bisection, with a duet as the test."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from perf.app.duet import EXIT_INCONCLUSIVE, THRESHOLD
from perf.app.side_by_side import compared, paired
from perf.app.what import What, what
from perf.errors import EXIT_PROBLEM, MeasureError, UsageError
from perf.judge.bisect import SKIP, TIME, Target, find_target
from perf.judge.stats import FAMILY_ERROR
from perf.measure.recipes import Recipe
from perf.measure.sides import prepared
from perf.printable import WIDTH, emphasized, printable, wrapped
from perf.report.answers import of_duet
from perf.report.duet import duet_text
from perf.report.sections import percent
from perf.signals import EXIT_STOPPED, stopped_by_signals

BUDGETS = 2  # how many budgets a commit may take; one that is still undecided is skipped

_FIRST_BAD = re.compile(r"^# (?:possible )?first '?bad'? commit: \[(\w{12})", re.MULTILINE)  # in git's log at the end


def bisect(*, good: str, bad: str, threshold: float | None = None, **asked_for: Any) -> int:
    """Find the first commit that differs from `good` as `bad` does, and return the exit code: 0 found, 4 not.

    `good` and `bad` are revisions; the rest is as in `duet`.
    """
    asked, *others = what(**asked_for)
    if others:
        raise UsageError(f"there are {1 + len(others)} workloads, and one is needed; name it: --workload")
    threshold = threshold or asked.target.workload.threshold or THRESHOLD
    ends = [_git(asked.root, "rev-parse", "--verify", "--short=12", f"{ref}^{{commit}}") for ref in (good, bad)]
    if ends[1] in _git(asked.root, "rev-list", ends[0]):
        raise UsageError(f"--bad {bad}: is no later commit than --good {good}; give the older one as --good")
    with stopped_by_signals():
        result = compared(_recipes(*ends), asked, threshold=threshold)
        answer, target = of_duet(result), find_target(result)
        print(f"\n{wrapped(answer.line)}")
        if result.interrupted:
            return EXIT_STOPPED
        if not target:
            print(f"So there is nothing to look for. Next: {answer.next_step}")
            return EXIT_PROBLEM if result.problem else EXIT_INCONCLUSIVE
        asked = replace(asked, sizes=[target.size])
        for shortcuts in (True, False) if target.name == TIME and target.ends[0] != target.ends[1] else (False,):
            found = first_bad(target, asked, *ends, shortcuts=shortcuts)
            names = "\n".join(_line(asked.root, commit) for commit in found)
            if len(found) > 1:
                print(f"The first bad commit is one of these; not all of them could be tested:\n{names}")
                return EXIT_INCONCLUSIVE
            print(f"First bad commit: {names}\nBeside its parent:", flush=True)
            result = compared(_recipes(f"{found[0]}^", found[0]), asked, threshold=threshold)
            if (is_sure := target.is_confirmed(result)) or result.interrupted:
                break
    print(f"\n{emphasized(f'First bad commit: {names}', is_bad=True)}\n{duet_text(result)}")
    if not is_sure:
        print("\nNot confirmed: beside its parent it does not make half of the change. Several commits may share it.")
    return EXIT_STOPPED if result.interrupted else 0 if is_sure else EXIT_INCONCLUSIVE


def first_bad(target: Target, asked: What, good: str, bad: str, *, shortcuts: bool) -> list[str]:
    """Let git choose commits, test each beside `good`, and return the one that git ends with, or all that it may be."""
    # Git keeps its state in this worktree, and checks nothing out there: each commit gets a fresh one.
    with prepared(_recipes(good, bad)[1], "bad", asked.root, asked.target.id, asked.environ) as side:
        root = Path(_git(side.root, "rev-parse", "--show-toplevel"))
        _git(root, "bisect", "start", "--no-checkout", bad, good)
        steps = _steps(root)
        # One wrong verdict is a wrong end. Each has its share of the error, so that all together have that of a duet.
        error = FAMILY_ERROR / (steps + 1)
        print(f"\nThe first commit with other {target.name} than {good}, in about {steps} steps:", flush=True)
        try:
            while not (found := _FIRST_BAD.findall(_git(root, "bisect", "log"))):
                commit, problem = _git(root, "rev-parse", "--short=12", "BISECT_HEAD"), ""
                try:
                    verdict, reason = _tested(_recipes(good, commit), target, asked, shortcuts, error)
                except MeasureError as failed:
                    verdict, reason, problem = SKIP, "cannot be run", f"{wrapped(f'  {printable(str(failed))}')}\n"
                _git(root, "bisect", verdict, commit)
                line = f"{_steps(root)} left: {verdict} ({reason}): {_line(root, commit)}"
                print(f"{line if len(line) <= WIDTH else line[: WIDTH - 2] + '..'}\n{problem}", end="", flush=True)
        finally:
            log = [printable(line) for line in _git(root, "bisect", "log").split("\n")]
            print("\n".join(["", "git bisect log, for git bisect replay:", *log, ""]).replace(" '--no-checkout'", ""))
    return found


def _tested(
    recipes: tuple[Recipe, Recipe], target: Target, asked: What, shortcuts: bool, error: float
) -> tuple[str, str]:
    """Return the verdict on a commit beside the good one, and why."""
    budget_s, starts = BUDGETS * asked.budget_s, list[list[float]]()
    bar = tqdm(total=round(budget_s), unit="s", leave=False, disable=None, desc=recipes[1].text)
    with bar, paired(recipes, asked) as (duet, _):
        verdict, reason = target.by_work(duet.work()[target.size], shortcuts=shortcuts)
        while verdict == SKIP and duet.elapsed_s < budget_s:
            pairs = duet.start([target.size], budget_s=asked.budget_s)
            bar.update(min(duet.elapsed_s, budget_s) - bar.n)
            starts.append([pair.effect for pair in pairs])
            verdict, effect = target.by_times(starts, error=error)
            reason = f"{percent(effect.effect_size, '+')} in {effect.num_runs} pairs"
    return verdict, reason


def _steps(root: Path) -> int:
    """Return how many tests are left, about."""
    left = _git(root, "rev-list", "--count", "refs/bisect/bad", "--not", "--glob=refs/bisect/good-*")
    return (int(left) - 1).bit_length()


def _recipes(good: str, bad: str) -> tuple[Recipe, Recipe]:
    return Recipe(text=f"git:{good}", commit=good), Recipe(text=f"git:{bad}", commit=bad)


def _line(root: Path, commit: str) -> str:
    """Return the short name and the subject of a commit, whatever that has in it."""
    return printable(_git(root, "rev-list", "--max-count=1", "--oneline", commit))


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", root, *arguments], stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode not in (0, 2):  # 2: only skipped commits are left
        raise MeasureError(f"git {arguments[0]}: {(done.stderr or done.stdout).decode(errors='replace')}")
    return done.stdout.decode(errors="replace").strip()
