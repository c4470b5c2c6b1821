"""The rules of version 0.1, to compare with: Wilcoxon's signed ranks over pairs, as if no two of them had anything in common."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from perf.judge.stats import CONFIDENCE, FAMILY_ERROR, FloatArray
from perf.judge.verdicts import Verdict

LOOKS = 4
"""At a quarter, half, three quarters and the whole of the budget."""


def verdict(ended_s: Sequence[float], effects: Sequence[float], *, threshold: float, budget_s: float) -> Verdict:
    """Return what version 0.1 said of the pairs of one batch size.

    Args:
        ended_s: when each pair ended, seconds since the duet began.
        effects: logarithms of the ratios of rates.
        threshold: the smallest change that matters, a fraction.
        budget_s: seconds; the pair that ends after it is the last.
    """
    look, found = 1, Verdict.INCONCLUSIVE
    for number, now_s in enumerate(ended_s, start=1):
        if now_s < budget_s * look / LOOKS:
            continue
        look = min(LOOKS, int(LOOKS * now_s / budget_s))
        found = _judge(effects[:number], threshold, (look**2 - (look - 1) ** 2) / LOOKS**2)
        if look == LOOKS or found is not Verdict.INCONCLUSIVE:
            break
        look += 1
    return found


def _judge(effects: Sequence[float], threshold: float, share: float) -> Verdict:
    low, high = np.expm1(_interval(effects, (1 - CONFIDENCE) * share))
    significant_low, significant_high = _interval(effects, FAMILY_ERROR * share)
    if -threshold < low and high < threshold:
        return Verdict.UNCHANGED
    if significant_high < 0:
        return Verdict.REGRESSED
    return Verdict.IMPROVED if significant_low > 0 else Verdict.INCONCLUSIVE


def _interval(values: Sequence[float], level: float) -> tuple[float, float]:
    """Return the values that the signed-rank test does not reject at `level`: averages of two values each (Tukey 1949)."""
    cumulated = np.cumsum(_rank_sums(len(values)))
    rejected = int(np.searchsorted(cumulated, level / 2, side="right"))
    if rejected == 0:
        return -np.inf, np.inf
    array = np.asarray(values, dtype=np.float64)
    first, second = np.triu_indices(len(array))
    averages = np.sort((array[first] + array[second]) / 2)
    return float(averages[rejected - 1]), float(averages[-rejected])


@functools.cache
def _rank_sums(n: int) -> FloatArray:
    """Return the probabilities of the sums 0 ... n (n + 1) / 2 of the ranks 1 ... n with a fair coin for each."""
    found = np.ones(1)
    for rank in range(1, n + 1):
        found = (np.pad(found, (0, rank)) + np.pad(found, (rank, 0))) / 2
    return found
