"""The verdicts of a duet, start by start; they are decided at two looks, each with its share of the error."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from perf.judge.stats import CONFIDENCE, FAMILY_ERROR, DuetEffect, estimate, scaling_contrasts
from perf.judge.verdicts import Verdict, why_inconclusive
from perf.records.pairs import FEWEST_STARTS, Pair

INTERIM_LOOK = 0.5  # the share of the budget after which there is a look before the last one
LATEST_INTERIM_LOOK = 0.7  # after this share the interim look is left out: it would take most of the error


@dataclass(frozen=True, kw_only=True, slots=True)
class DuetJudgement:
    """The verdict on the times of one batch size."""

    verdict: Verdict  # IMPROVED, UNCHANGED, REGRESSED or INCONCLUSIVE
    effect: DuetEffect  # the comparison behind it
    reason: str  # why, in words
    # the budget for each batch size that about would have decided it, seconds; 0 if it is decided, or unknown
    needed_s: float = 0.0

    def advice(self, budget_option: str) -> str:
        """Return the reason, and the option that gives the needed budget: a format such as ``--budget {:.0f}s``."""
        return f"{self.reason}; use about {budget_option.format(self.needed_s)}" if self.needed_s else self.reason


def spent(share: float) -> float:
    """Return what part of the error may be spent once `share` of the budget is: its square (Kim and DeMets 1987)."""
    return min(1.0, share) ** 2


LAST_SHARE = 1 - spent(INTERIM_LOOK)  # the last look's share of the error


class Decisions:
    """The judgements so far of each batch size, and which are undecided; measures nothing.

    There is a look when half of the budget is spent, and one at its end. The shares of the error are added as if the
    looks were independent, so the actual error is smaller than the allowed one. A look at fewer than `FEWEST_STARTS`
    starts decides nothing, and its share is left for the next.

    The batch sizes are one family, and `budget_s` is of the whole duet.
    """

    def __init__(self, sizes: Sequence[int], *, threshold: float, budget_s: float) -> None:
        self._threshold, self._budget_s = threshold, budget_s
        self._starts: dict[int, list[list[float]]] = {size: [] for size in sizes}
        self._decided: dict[int, DuetJudgement] = {}
        self._ended_s = self._spent = 0.0

    @property
    def undecided(self) -> list[int]:
        """Batch sizes to be measured further, ascending; none when the budget is spent."""
        return sorted(size for size in self._starts if size not in self._decided)

    @property
    def judgements(self) -> dict[int, DuetJudgement]:
        """The judgement of each batch size that has a whole start; if undecided, INCONCLUSIVE."""
        found = dict(self._decided)
        for size in self.undecided:
            if self._starts[size]:
                effect, reason = self._estimate(size, LAST_SHARE), "stopped before it was decided"
                found[size] = DuetJudgement(verdict=Verdict.INCONCLUSIVE, effect=effect, reason=reason)
        return dict(sorted(found.items()))

    def add(self, pairs: Sequence[Pair], *, ended_s: float) -> None:
        """Add the pairs of one whole start, which ended at `ended_s` of the duet, and look at them if a look is due."""
        for size in {pair.global_batch_size for pair in pairs}:
            self._starts[size].append([pair.effect for pair in pairs if pair.global_batch_size == size])
        took_s, self._ended_s = ended_s - self._ended_s, ended_s
        share = ended_s / self._budget_s
        are_enough = all(len(self._starts[size]) >= FEWEST_STARTS for size in self.undecided)
        if ended_s + took_s / 2 > self._budget_s:  # another start would end late by more than half of it
            self._look(1.0)
        elif INTERIM_LOOK <= share <= LATEST_INTERIM_LOOK and are_enough and not self._spent:
            self._look(share)

    def _look(self, share_of_budget: float) -> None:
        is_last = share_of_budget == 1.0
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


def judge_scaling(pairs: Sequence[Pair], size: int, *, threshold: float) -> DuetJudgement | None:
    """Return whether the rate of a batch size relative to the others' is the baseline's; None if there are no others.

    A value is a start: the effect at one batch size less the mean of the effects at the others. Only starts that have
    all batch sizes count. A duet ends at one of its two looks, so each may spend half of the error.
    """
    sizes = sorted({pair.global_batch_size for pair in pairs})
    effects: defaultdict[int, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        effects[pair.start][pair.global_batch_size].append(pair.effect)
    whole = [[float(np.mean(start[size])) for size in sizes] for start in effects.values() if len(start) == len(sizes)]
    if len(sizes) < 2 or not whole or size not in sizes:
        return None
    contrasts = scaling_contrasts(np.array(whole).T)[sizes.index(size)]
    level, elapsed_s = FAMILY_ERROR / 2 / len(sizes), pairs[-1].ended_s / len(sizes)
    effect = estimate([[contrast] for contrast in contrasts], level=level, elapsed_s=elapsed_s)
    effect = replace(effect, num_runs=sum(pair.global_batch_size == size for pair in pairs))
    return judge(effect, threshold=threshold, share=0.5, last_level=level)


def judge(effect: DuetEffect, *, threshold: float, share: float, last_level: float) -> DuetJudgement:
    """Return the verdict on one batch size at a look.

    UNCHANGED: the whole 95% interval lies within the threshold; before the last look a wider interval must, so that the
    first look adds little to the error of the last. REGRESSED or IMPROVED: it does not, and the change is significant.
    So a slowdown exactly as large as the threshold is found, which a rule that wants the whole interval beyond the
    threshold would miss; and a significant change smaller than the threshold is UNCHANGED.

    Args:
        effect: the comparison.
        threshold: the smallest change that matters, a fraction.
        share: of the 95% interval's error that this look may spend; 1 for the last look.
        last_level: the error of the last look, for the forecast of a budget.
    """
    verdict, needed_s = Verdict.INCONCLUSIVE, 0.0
    if effect.num_starts < FEWEST_STARTS:
        reason = f"only {effect.num_starts} of the {FEWEST_STARTS} starts that a verdict needs"
        needed_s = effect.elapsed_s / effect.num_starts * FEWEST_STARTS
    elif effect.within(threshold, error=(1 - CONFIDENCE) * share):
        verdict, reason = Verdict.UNCHANGED, f"the interval lies within {threshold:.1%}"
        if effect.is_significant:
            reason = f"the change of {effect.effect_size:+.1%} is significant, but smaller than {threshold:.1%}"
    elif effect.is_significant:
        verdict, word = (Verdict.REGRESSED, "slower") if effect.effect_size < 0 else (Verdict.IMPROVED, "faster")
        ground = f"p = {effect.p_value:.1g}, {effect.num_runs} pairs in {effect.num_starts} starts"
        reason = f"significantly {word}: {ground}"
    else:
        reason = why_inconclusive(effect, threshold, "pairs")
        could_show = effect.minimal_detectable_effect <= threshold
        needed_s = 2 * effect.elapsed_s if could_show else effect.budget_for(threshold, level=last_level)
    return DuetJudgement(verdict=verdict, effect=effect, reason=reason, needed_s=float(np.ceil(needed_s)))
