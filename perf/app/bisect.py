"""Find the commit that changed a step: git's own bisection, with a duet as the test."""

import math
import re
import subprocess
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from perf.app.duet import EXIT_INCONCLUSIVE, THRESHOLD, exit_code, show
from perf.app.side_by_side import compared
from perf.app.what import What, what
from perf.errors import MeasureError, UsageError
from perf.judge.duets import CHANGED, DuetResult, loss_problem, work_differences
from perf.judge.stats import FAMILY_ERROR
from perf.judge.verdicts import Verdict
from perf.measure.sides import Recipe, prepared
from perf.printable import emphasized, printable, wrapped
from perf.records.wire import SideWork
from perf.report.answers import of_duet
from perf.signals import EXIT_STOPPED, stopped_by_signals

TIME, LOSSES = "time", "losses"

_FIRST_BAD = re.compile(r"^# (?:possible )?first '?bad'? commit: \[(\w{12})", re.MULTILINE)  # in git's log at the end


class Target(Struct, frozen=True, kw_only=True):
    """What differs between the ends of a bisection, and is looked for between them."""

    name: str  # `TIME`, `LOSSES`, or the name of a counter or a fact
    size: int  # the batch size at which it is looked for
    effect: float = 0.0  # of `TIME`: logarithm of the bad end's rate over the good one's

    def share(self, result: DuetResult, centre: float = 0.0) -> float | None:
        """Return what share of the difference a candidate has; None if undecided. Effects were judged less `centre`."""
        if self.name != TIME:
            return float(self.name in differing(result.work[self.size]))
        found = result.judgements.get(self.size)
        if not found or found.verdict is Verdict.INCONCLUSIVE:
            return None
        return (math.log1p(found.effect.effect_size) + centre) / self.effect


def targets(result: DuetResult) -> list[Target]:
    """Return what may be looked for, in this order, until the commit that is found differs as the ends do.

    Losses come first: of another training the times do not matter. A change of time is sought by the operation that
    explains it, if there is one, which needs no times; then by times. Other work alone is the last.
    """
    names = {size: differing(work) for size, work in result.work.items()}
    for size in [size for size in names if LOSSES in names[size]]:
        return [Target(name=LOSSES, size=size)]
    changed = [size for size, judgement in result.judgements.items() if judgement.verdict in CHANGED]
    if changed:
        size = min(changed, key=lambda size: result.judgements[size].effect.p_value)
        rows = [row for some in result.contributions.values() for row in some if row.is_significant]
        operations = [row.operation.split()[0] for row in rows]
        causes = [Target(name=name, size=size) for name in operations if name in names[size]]
        time = Target(name=TIME, size=size, effect=math.log1p(result.judgements[size].effect.effect_size))
        return [*causes[:1], time]
    return [Target(name=some[0], size=size) for size, some in names.items() if some][:1]


def differing(work: tuple[SideWork, SideWork]) -> list[str]:
    """Return what differs in a step by name: `LOSSES`, facts (``precision fp32 -> bf16``), counters (``+1 flops``).

    Not Python calls: harmless commits change them.
    """
    names = [text.split()[-1 if text[0] in "+-" else 0] for text in work_differences(work)]
    return [LOSSES] * bool(loss_problem(work)) + [name for name in names if name != "python_calls"]


def bisect(*, good: str, bad: str, threshold: float | None = None, **asked_for: Any) -> int:
    """Find the first commit that differs from `good` as `bad` does, and return the exit code: 0 found, 4 not.

    `good` and `bad` are revisions; the rest is as in `perf.app.duet.duet`.
    """
    asked, *others = what(**asked_for)
    if others:
        raise UsageError(f"there are {1 + len(others)} workloads, and one is needed; name it: --workload")
    threshold = threshold or asked.target.workload.threshold or THRESHOLD
    ends = [_git(asked.root, "rev-parse", "--verify", "--short=12", f"{ref}^{{commit}}") for ref in (good, bad)]
    if _git(asked.root, "rev-list", "--count", "..".join(ends)) == "0":
        raise UsageError(f"--bad {bad}: is no later commit than --good {good}; give the older one as --good")
    with stopped_by_signals():
        result = compared(_recipes(*ends), asked, threshold=threshold)
        answer, wanted = of_duet(result), targets(result)
        print(f"\n{wrapped(answer.line)}")
        if result.interrupted or not wanted:
            print("" if result.interrupted else f"So there is nothing to look for. Next: {answer.next_step}")
            return exit_code(result) or EXIT_INCONCLUSIVE
        asked = replace(asked, sizes=[wanted[-1].size])
        for target in wanted:
            found = first_bad(target, asked, *ends)
            names = "\n".join(_line(asked.root, commit) for commit in found)
            if len(found) > 1:
                print(f"\nThe first bad commit is one of these; not all of them could be tested:\n{names}")
                return EXIT_INCONCLUSIVE
            print(f"First bad commit: {names}\nBeside its parent:", flush=True)
            result = compared(_recipes(f"{found[0]}^", found[0]), asked, threshold=threshold)
            is_sure = (wanted[-1].share(result) or 0.0) >= 0.5
            if is_sure or result.interrupted:
                break
    show(result, asked, None, [])
    print(f"\n{emphasized(f'First bad commit: {names}', is_bad=True)}")
    if not is_sure:
        print("Not confirmed: beside its parent it does not make half of the change. Several commits may share it.")
    return EXIT_STOPPED if result.interrupted else 0 if is_sure else EXIT_INCONCLUSIVE


def first_bad(target: Target, asked: What, good: str, bad: str) -> list[str]:
    """Let git choose commits, test each beside `good`, and return the one that git ends with, or all that it may be."""
    # Git keeps its state in this worktree, and checks nothing out there: each commit gets a fresh one.
    with prepared(_recipes(good, bad)[1], "bad", asked.root, asked.target.id, asked.environ) as side:
        root = Path(_git(side.root, "rev-parse", "--show-toplevel"))
        _git(root, "bisect", "start", "--no-checkout", bad, good)
        left_error = FAMILY_ERROR
        print(f"\nThe first commit with other {target.name} than {good}, in about {_steps(root)} steps:", flush=True)
        try:
            while not (found := _FIRST_BAD.findall(_git(root, "bisect", "log"))):
                commit = _git(root, "rev-parse", "--short=12", "BISECT_HEAD")
                # One wrong verdict is a wrong end: each has a share of the error, and all together have that of a duet.
                error = left_error / (_steps(root) + 1)
                # Judged less half of the effect between the ends, by a threshold that no interval lies within: a commit
                # is like the end that it is nearer to, or undecided.
                options = {"error": error, "centre": target.effect / 2, "is_timed": target.name == TIME}
                try:
                    result = compared(_recipes(good, commit), asked, threshold=1e-9, **options)
                    left_error -= error
                    if result.interrupted:
                        raise KeyboardInterrupt
                    share = target.share(result, target.effect / 2)
                    reason = "undecided" if share is None else f"{target.name}: {share:.0%} of the difference"
                    verdict = "skip" if share is None else "bad" if share > 0.5 else "good"
                except MeasureError as failed:
                    verdict, reason = "skip", printable(str(failed))
                _git(root, "bisect", verdict, commit)
                print(wrapped(f"{_steps(root)} left: {verdict} ({reason}): {_line(root, commit)}"), flush=True)
        finally:
            log = [printable(line) for line in _git(root, "bisect", "log").split("\n")]
            print("\n".join(["", "git bisect log, for git bisect replay:", *log, ""]).replace(" '--no-checkout'", ""))
    return found


def _steps(root: Path) -> int:
    left = _git(root, "rev-list", "--count", "refs/bisect/bad", "--not", "--glob=refs/bisect/good-*")
    return (int(left) - 1).bit_length()


def _recipes(good: str, bad: str) -> tuple[Recipe, Recipe]:
    return Recipe(text=f"git:{good}", commit=good), Recipe(text=f"git:{bad}", commit=bad)


def _line(root: Path, commit: str) -> str:
    return printable(_git(root, "rev-list", "--max-count=1", "--oneline", commit))


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", root, *arguments], stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode not in (0, 2):  # 2: only skipped commits are left
        raise MeasureError(f"git {arguments[0]}: {(done.stderr or done.stdout).decode(errors='replace')}")
    return done.stdout.decode(errors="replace").strip()
