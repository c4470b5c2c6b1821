"""The verdict on one batch size of a duet: looks at a few moments of the budget, each with its share of the error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from perf.judge.stats import (
    CONFIDENCE,
    FAMILY_ERROR,
    POWER,
    Effect,
    hodges_lehmann,
    signed_rank_interval,
    signed_rank_p,
)
from perf.judge.verdicts import Verdict
from perf.measure.pairs import Pair

LOOKS = 4
"""At a quarter, half, three quarters and the whole of the budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DuetEffect(Effect):
    """How the candidate's rate relates to the baseline's, from pairs of runs.

    `effect_size` is at the Hodges-Lehmann estimate; `low` and `high` hold at all looks together; `p_value` is of this look
    alone; `num_runs` is the number of pairs.

    Attributes:
        surely_low, surely_high: the interval that must exclude no effect for a REGRESSED or IMPROVED; it errs in at most
            `FAMILY_ERROR` of duets, over all looks and batch sizes.
        fewest_runs: pairs below which nothing can be excluded, however alike they are.
        elapsed_s: seconds of the duet when the last pair ended, divided by its batch sizes.
    """

    surely_low: float
    surely_high: float
    fewest_runs: int
    elapsed_s: float

    def budget_for(self, threshold: float) -> float:
        """Return about how many seconds for each batch size would have decided `threshold`: errors shrink with the root of time."""
        pairs = self.num_runs * (self.reach / -float(np.log1p(-threshold))) ** 2
        return self.elapsed_s * max(pairs, self.fewest_runs) / self.num_runs


@dataclass(frozen=True, kw_only=True, slots=True)
class DuetJudgement:
    """What became of one batch size.

    Attributes:
        verdict: IMPROVED, UNCHANGED, REGRESSED or INCONCLUSIVE.
        effect: what it rests on.
        look: at which look it was reached, from 1.
        reason: why, in words.
    """

    verdict: Verdict
    effect: DuetEffect
    look: int
    reason: str


def spent(look: int) -> float:
    """Return the share of the error that belongs to one look: of the first k of K looks, (k/K)^2 (Kim and DeMets 1987).

    The shares are added up as if looks were independent of each other, so the error kept is smaller than the one allowed.
    """
    return (look**2 - (look - 1) ** 2) / LOOKS**2


def estimate(pairs: Sequence[Pair], *, family_size: int, look: int) -> DuetEffect:
    """Estimate the effect of one batch size from its pairs, by signed ranks: one pair that went wrong cannot move it far.

    Args:
        pairs: at least one.
        family_size: batch sizes of the duet.
        look: which one this is, from 1 to `LOOKS`.

    Raises:
        ValueError: there is no pair, or no such look.
    """
    if not pairs or not 1 <= look <= LOOKS:
        raise ValueError(f"{len(pairs)} pairs at look {look}: at least one pair and a look of 1 to {LOOKS} are needed")
    values = [pair.effect for pair in pairs]
    centre = hodges_lehmann(values)
    shown = signed_rank_interval(values, (1 - CONFIDENCE) * spent(look))
    level = FAMILY_ERROR * spent(look) / family_size
    surely = signed_rank_interval(values, level)
    low, high, surely_low, surely_high = (float(np.expm1(end)) for end in (*shown, *surely))
    return DuetEffect(
        effect_size=float(np.expm1(centre)),
        low=low,
        high=high,
        surely_low=surely_low,
        surely_high=surely_high,
        p_value=signed_rank_p(values),
        reach=_reach(values, surely),
        num_runs=len(values),
        fewest_runs=int(np.ceil(1 - np.log2(level))),  # all on one side: the p-value is 2 / 2^n
        elapsed_s=pairs[-1].ended_s / family_size,
    )


def _reach(values: Sequence[float], surely: tuple[float, float]) -> float:
    """Return what as many values with this spread would show, from the half width of the interval that must exclude none.

    The standard error of a Hodges-Lehmann estimate is sqrt(pi / 3) times that of a mean, for normal values.
    """
    deviations = np.abs(np.asarray(values) - np.median(values))
    error = 1.4826 * float(np.median(deviations)) * np.sqrt(np.pi / 3 / len(values))
    return float((surely[1] - surely[0]) / 2 + special.ndtri(POWER) * error)


def judge(effect: DuetEffect, *, threshold: float, look: int) -> DuetJudgement:
    """Return the verdict on one batch size.

    UNCHANGED: the whole interval lies within the threshold. REGRESSED or IMPROVED: it does not, and no effect is surely
    excluded. So a slowdown exactly as large as the threshold is found, which an interval wholly beyond the threshold would
    never do; and a change that is real but smaller than the threshold is not made an alarm.

    Args:
        effect: the comparison.
        threshold: the smallest change that matters, a fraction.
        look: which one this is, from 1.
    """
    p = f"p = {effect.p_value:.1g} in {effect.num_runs} pairs"
    if -threshold < effect.low and effect.high < threshold:
        surely = effect.surely_high < 0 or effect.surely_low > 0
        real = f"a change of {effect.effect_size:+.1%} is real, and smaller; " if surely else ""
        verdict, reason = Verdict.UNCHANGED, f"{real}the interval lies within {threshold:.1%}"
    elif effect.surely_high < 0:
        verdict, reason = Verdict.REGRESSED, f"slower, surely: {p}"
    elif effect.surely_low > 0:
        verdict, reason = Verdict.IMPROVED, f"faster, surely: {p}"
    else:
        verdict, reason = Verdict.INCONCLUSIVE, _inconclusive(effect, threshold)
    return DuetJudgement(verdict=verdict, effect=effect, look=look, reason=reason)


def _inconclusive(effect: DuetEffect, threshold: float) -> str:
    if not np.isfinite(effect.reach):
        return f"{effect.num_runs} pairs are too few to show anything at these error rates; give a larger --budget"
    if effect.minimal_detectable_effect <= threshold:
        return f"the interval reaches across {threshold:.1%}; a larger --budget would tell"
    return (
        f"such data shows {effect.minimal_detectable_effect:.1%} or more; {threshold:.1%} needs about "
        f"{effect.budget_for(threshold):,.0f} s for each batch size"
    )


def decide_pairs(
    pairs: Iterable[Pair], sizes: Sequence[int], *, threshold: float, budget_s: float, wanted: set[int]
) -> dict[int, DuetJudgement]:
    """Look at pairs as they come and return the verdict on each batch size.

    A batch size leaves `wanted` when it is decided, and at the last look; none goes without a pair.

    Args:
        pairs: in the order they are measured; they end when `wanted` is empty.
        sizes: the batch sizes; one family.
        threshold: the smallest change that matters, a fraction.
        budget_s: of the whole duet, seconds.
        wanted: what is still to be measured, all of `sizes` at first.
    """
    by_size: dict[int, list[Pair]] = {size: [] for size in sizes}
    found: dict[int, DuetJudgement] = {}
    look = 1
    for pair in pairs:
        by_size[pair.global_batch_size].append(pair)
        if pair.ended_s < budget_s * look / LOOKS:
            continue
        look = min(LOOKS, int(LOOKS * pair.ended_s / budget_s))  # a look that a slow pair jumped over is forgone
        for size in sorted(wanted):
            if not by_size[size]:
                continue  # a budget that does not even last for one pair of each
            effect = estimate(by_size[size], family_size=len(sizes), look=look)
            found[size] = judge(effect, threshold=threshold, look=look)
            if look == LOOKS or found[size].verdict is not Verdict.INCONCLUSIVE:
                wanted.remove(size)
        look = min(LOOKS, look + 1)
    return found
