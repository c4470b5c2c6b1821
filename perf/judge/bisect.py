"""What a bisection looks for, and on which side of it a commit is; measures nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from perf.judge.duets import CHANGED, DuetResult, loss_problem, work_differences
from perf.judge.stats import DuetEffect, estimate
from perf.judge.verdicts import Verdict
from perf.records.pairs import FEWEST_STARTS
from perf.records.wire import SideWork

TIME, LOSSES = "time", "losses"
GOOD, BAD, SKIP = "good", "bad", "skip"  # what git is told

PRIOR = 4.0  # variance of the expected distance from the midpoint; its unit is the variance between starts


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What differs between the ends of a bisection, and is looked for between them."""

    name: str  # `TIME`, `LOSSES`, or the name of a counter or a fact
    size: int  # the batch size at which it is looked for
    ends: tuple[SideWork, SideWork]  # what the good and the bad end do in a step
    effect: float = 0.0  # of `TIME`: logarithm of the bad end's rate over the good one's

    def by_work(self, work: tuple[SideWork, SideWork], *, shortcuts: bool) -> tuple[str, str]:
        """Return GOOD, BAD or SKIP (times must decide) of a commit, and why; `work` is of the good end and of it.

        With `shortcuts`, a commit that does exactly what one end does, and not what the other does, takes as long.
        """
        if self.name != TIME:
            return (BAD, f"other {self.name}") if self.name in _differing(work) else (GOOD, f"same {self.name}")
        is_good, is_bad = (work[1] == end for end in self.ends)
        if not shortcuts or is_good == is_bad:
            return SKIP, ""
        return (GOOD, "does what the good end does") if is_good else (BAD, "does what the bad end does")

    def by_times(self, starts: Sequence[Sequence[float]], *, error: float) -> tuple[str, DuetEffect]:
        """Return GOOD, BAD or SKIP (undecided so far) of a commit, and its effect, from pairs with the good end.

        It is asked after every start whether the effect is that of the midpoint, half of the effect between the ends.
        So the test is one that holds at all looks together, a likelihood ratio of t with a normal prior: with a
        probability of `error` at most, it ever exceeds 1 / error where the midpoint is true (Lai 1976; Wang and
        Ramdas 2024).
        """
        effect = estimate(starts, level=error, elapsed_s=0.0)
        distance, n = math.log1p(effect.effect_size) - self.effect / 2, effect.num_starts
        if n < FEWEST_STARTS:
            return SKIP, effect
        squared, width = (distance / effect.standard_error) ** 2 / (n - 1), 1 + n * PRIOR
        ratio = (n * math.log((1 + squared) / (1 + squared / width)) - math.log(width)) / 2
        return (SKIP if ratio < -math.log(error) else BAD if distance * self.effect > 0 else GOOD), effect

    def is_confirmed(self, result: DuetResult) -> bool:
        """Return whether a commit differs from its parent in what was looked for; of a time, at least half as much."""
        if self.name != TIME:
            return self.name in _differing(result.work[self.size])
        found = result.judgements.get(self.size)
        if not found or found.verdict is Verdict.INCONCLUSIVE:
            return False
        return math.log1p(found.effect.effect_size) / self.effect >= 0.5


def find_target(result: DuetResult) -> Target | None:
    """Return what differs between a good and a bad end: losses before times before work; None if nothing does."""
    work, judged = result.work, result.judgements
    plainest = sorted(judged, key=lambda size: judged[size].effect.p_value)
    times = [(TIME, size) for verdict in CHANGED for size in plainest if judged[size].verdict is verdict]
    exact = [(name, size) for size in work for name in _differing(work[size])]
    for name, size in [*(one for one in exact if one[0] == LOSSES), *times, *exact][:1]:
        effect = math.log1p(judged[size].effect.effect_size) if name == TIME else 0.0
        return Target(name=name, size=size, ends=work[size], effect=effect)
    return None


def _differing(work: tuple[SideWork, SideWork]) -> list[str]:
    """Return what differs in a step by name: `LOSSES`, facts (``precision fp32 -> bf16``), counters (``+1 flops``)."""
    names = [text.split()[-1 if text[0] in "+-" else 0] for text in work_differences(work)]
    return [LOSSES, *names] if loss_problem(work) else names
