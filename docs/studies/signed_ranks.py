"""The rules of version 0.1, to compare with: Wilcoxon's signed ranks over pairs, as if each stood alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from perf.judge.stats import CONFIDENCE, FAMILY_ERROR
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
    shown, surely = (1 - CONFIDENCE) * share, FAMILY_ERROR * share
    if _is_beyond(effects, -threshold, "greater", shown) and _is_beyond(effects, threshold, "less", shown):
        return Verdict.UNCHANGED
    if _is_beyond(effects, 0.0, "less", surely):
        return Verdict.REGRESSED
    return Verdict.IMPROVED if _is_beyond(effects, 0.0, "greater", surely) else Verdict.INCONCLUSIVE


def _is_beyond(effects: Sequence[float], change: float, side: str, level: float) -> bool:
    """Return whether the signed-rank test finds the effects on one side of a change, a fraction, at half of `level`."""
    differences = np.asarray(effects) - np.log1p(change)
    return bool(stats.wilcoxon(differences, alternative=side, method="exact").pvalue <= level / 2)
