"""The verdicts of a duet, start by start: two looks, each with its share of the error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perf.judge.levels import DuetEffect, estimate
from perf.judge.stats import CONFIDENCE, FAMILY_ERROR
from perf.judge.verdicts import Verdict
from perf.records.pairs import FEWEST_STARTS, Pair

INTERIM_LOOK = 0.5
"""The share of the budget after which there is a look before the last one."""

LATEST_INTERIM_LOOK = 0.7
"""After this share it is left out: it would take most of the error from the last look."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DuetJudgement:
    """What became of the times of one batch size.

    Attributes:
        verdict: IMPROVED, UNCHANGED, REGRESSED or INCONCLUSIVE.
        effect: what it rests on.
        reason: why, in words.
    """

    verdict: Verdict
    effect: DuetEffect
    reason: str


def spent(share: float) -> float:
    """Return how much of the error may be spent when `share` of the budget is: its square (Kim and DeMets 1987)."""
    return min(1.0, share) ** 2


LAST_SHARE = 1 - spent(INTERIM_LOOK)
"""The share of the error that the last look has."""


class Decisions:
    """What is known so far of each batch size, and which are undecided; measures nothing.

    A look comes when half of the budget is spent, and one at its end. Shares of the error are added up as if looks were
    independent of each other, so the error made is smaller than the one allowed. A look at fewer than `FEWEST_STARTS`
    starts decides nothing, and its share is left for the next.

    Args:
        sizes: the batch sizes; one family.
        threshold: the smallest change that matters, a fraction.
        budget_s: of the whole duet, seconds.
    """

    def __init__(self, sizes: Sequence[int], *, threshold: float, budget_s: float) -> None:
        self._threshold, self._budget_s = threshold, budget_s
        self._starts: dict[int, list[list[float]]] = {size: [] for size in sizes}
        self._decided: dict[int, DuetJudgement] = {}
        self._ended_s = self._spent = 0.0
        self._looked = False

    @property
    def undecided(self) -> list[int]:
        """Batch sizes to be measured further, ascending; none when the budget is spent."""
        return sorted(size for size in self._starts if size not in self._decided)

    @property
    def judgements(self) -> dict[int, DuetJudgement]:
        """What is known of each batch size that has a whole start; if undecided, INCONCLUSIVE."""
        found = dict(self._decided)
        for size in self.undecided:
            if self._starts[size]:
                found[size] = _undecided(self._estimate(size, LAST_SHARE), "stopped before it was decided")
        return dict(sorted(found.items()))

    def add(self, pairs: Sequence[Pair], *, ended_s: float) -> None:
        """Take the pairs of one whole start, and look at them if it is time to.

        Args:
            pairs: of the undecided batch sizes.
            ended_s: seconds of the duet when the start ended.
        """
        for size in {pair.global_batch_size for pair in pairs}:
            self._starts[size].append([pair.effect for pair in pairs if pair.global_batch_size == size])
        took_s, self._ended_s = ended_s - self._ended_s, ended_s
        if ended_s + took_s / 2 > self._budget_s:  # another start would end late by more than half of it
            self._look(1.0)
        elif INTERIM_LOOK <= ended_s / self._budget_s <= LATEST_INTERIM_LOOK and self._can_look_early:
            self._look(ended_s / self._budget_s)

    @property
    def _can_look_early(self) -> bool:
        return not self._looked and all(len(self._starts[size]) >= FEWEST_STARTS for size in self.undecided)

    def _look(self, share_of_budget: float) -> None:
        self._looked, is_last = True, share_of_budget == 1.0
        share, self._spent = spent(share_of_budget) - self._spent, spent(share_of_budget)
        last_level = FAMILY_ERROR * LAST_SHARE / len(self._starts)
        for size in self.undecided:
            effect = self._estimate(size, share)
            found = judge(effect, threshold=self._threshold, share=1.0 if is_last else share, last_level=last_level)
            if is_last or found.verdict is not Verdict.INCONCLUSIVE:
                self._decided[size] = found

    def _estimate(self, size: int, share: float) -> DuetEffect:
        family = len(self._starts)  # a budget is given for each batch size
        return estimate(self._starts[size], level=FAMILY_ERROR * share / family, elapsed_s=self._ended_s / family)


def judge(effect: DuetEffect, *, threshold: float, share: float, last_level: float) -> DuetJudgement:
    """Return the verdict on one batch size at a look.

    UNCHANGED: the whole 95 % interval lies within the threshold; before the last look a wider one must, so that the
    first look adds little to the error of the last. REGRESSED or IMPROVED: it does not, and zero is surely excluded. So a slowdown exactly
    as large as the threshold is found, which an interval wholly beyond the threshold would never do; and a change that is
    real but smaller than the threshold is not made an alarm.

    Args:
        effect: the comparison.
        threshold: the smallest change that matters, a fraction.
        share: of the 95 % interval's error that this look may spend; 1 for the last look.
        last_level: the error of the last look, for the forecast of a budget.
    """
    p = f"p = {effect.p_value:.1g}, {effect.num_runs} pairs in {effect.num_starts} starts"
    if effect.num_starts < FEWEST_STARTS:
        return _undecided(
            effect,
            f"{effect.num_starts} of the {FEWEST_STARTS} starts that a verdict needs: "
            f"--budget {np.ceil(effect.elapsed_s / effect.num_starts * FEWEST_STARTS):.0f}s",
        )
    surely = effect.significant_high < 0 or effect.significant_low > 0
    if effect.within(threshold, error=(1 - CONFIDENCE) * share):
        real = f"a change of {effect.effect_size:+.1%} is real, and smaller; " if surely else ""
        return DuetJudgement(
            verdict=Verdict.UNCHANGED, effect=effect, reason=f"{real}the interval lies within {threshold:.1%}"
        )
    if surely:
        slower = effect.effect_size < 0
        verdict, word = (Verdict.REGRESSED, "slower") if slower else (Verdict.IMPROVED, "faster")
        return DuetJudgement(verdict=verdict, effect=effect, reason=f"{word}, surely: {p}")
    return _undecided(effect, _inconclusive(effect, threshold, last_level))


def _undecided(effect: DuetEffect, reason: str) -> DuetJudgement:
    return DuetJudgement(verdict=Verdict.INCONCLUSIVE, effect=effect, reason=reason)


def _inconclusive(effect: DuetEffect, threshold: float, last_level: float) -> str:
    if effect.minimal_detectable_effect <= threshold:
        return f"the interval reaches across {threshold:.1%}; a larger --budget would decide"
    return (
        f"only a slowdown of {effect.minimal_detectable_effect:.1%} or more would have shown; {threshold:.1%} needs about "
        f"--budget {np.ceil(effect.budget_for(threshold, level=last_level)):.0f}s"
    )
