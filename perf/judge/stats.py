"""Arrays in, estimates out. The unit is the run: steps of one process are no independent samples of anything.

Scipy is imported where it is used: promotion and reports take its results from here, and start without it.
Why not a bootstrap, and what these intervals cover on noise like the measured one: docs/decisions.md, 11.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.95  # of the intervals that are shown
FAMILY_ERROR = 0.01  # how often a family of comparisons without any difference may find one, in either direction
POWER = 0.8  # how often a change of the size of the minimal detectable effect is found

SHARED_PHASES = 1.15
"""Factor on standard errors: neighbouring runs often share a phase of the machine's speed, and are not independent."""

RUN_QUANTILE = 0.25
"""The quantile of a run's step times that stands for the run: below most disturbances, above lucky single steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """How the candidate's rates relate to the baseline's."""

    effect_size: float  # candidate / baseline - 1; below 0 is slower
    # low, high: its interval at `CONFIDENCE`
    low: float
    high: float
    p_value: float  # two-sided, of no effect; not corrected for other comparisons
    # the smallest slowdown, a fraction of the rate, that such data shows with probability `POWER` within its family of
    # comparisons; 1 where it shows none
    minimal_detectable_effect: float


def run_rate(step_s: Sequence[float], global_batch_size: int) -> float:
    """Return the rate of one run, samples/sec, at its `RUN_QUANTILE` of step times (seconds)."""
    return global_batch_size / float(np.quantile(np.asarray(step_s), RUN_QUANTILE))


def compare_rates(
    candidate: Sequence[float], baseline: Sequence[float], *, family_size: int, widen: float = SHARED_PHASES
) -> Effect:
    """Compare the rates of runs by Welch's t-test (1947) on their logarithms.

    Args:
        candidate: one rate for each run, at least two, in any positive unit; else ValueError.
        baseline: the same.
        family_size: how many comparisons are made at once.
        widen: factor on the standard error; 1 for runs that are independent.
    """
    from scipy import special

    if min(len(candidate), len(baseline)) < 2 or not all(0 < rate < np.inf for rate in (*candidate, *baseline)):
        raise ValueError(f"{len(candidate)} and {len(baseline)} runs: two positive rates on each side are needed")
    sides = [np.log(side) for side in (candidate, baseline)]
    difference = float(sides[0].mean() - sides[1].mean())
    variances = [float(side.var(ddof=1)) / len(side) for side in sides]
    error = widen * float(np.sqrt(sum(variances)))
    terms = [v**2 / (len(side) - 1) for v, side in zip(variances, sides, strict=True)]
    freedom = sum(variances) ** 2 / sum(terms) if sum(terms) else float(sum(map(len, sides)) - 2)
    error = error or float(np.finfo(float).eps)  # made-up data has no spread
    quantiles = ((1 + CONFIDENCE) / 2, 1 - FAMILY_ERROR / 2 / family_size, POWER)
    shown, rejected, found = (float(special.stdtrit(freedom, quantile)) for quantile in quantiles)
    return Effect(
        effect_size=float(np.expm1(difference)),
        low=float(np.expm1(difference - shown * error)),
        high=float(np.expm1(difference + shown * error)),
        p_value=2 * float(special.stdtr(freedom, -abs(difference) / error)),
        minimal_detectable_effect=-float(np.expm1(-(rejected + found) * error)),
    )


def scaling_contrasts(logs: FloatArray) -> FloatArray:
    """Return how far each batch size is above the mean of the others in its round: what all share cancels.

    `logs` are (B, R) logarithms of rates or effects of B batch sizes, at least two, in R rounds; so is the result.
    """
    return np.asarray(logs - (logs.sum(axis=0) - logs) / (len(logs) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for being several (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    corrected = np.minimum(1.0, np.sort(p_values) * np.arange(len(order), 0, -1))
    return [float(p) for p in np.maximum.accumulate(corrected)[np.argsort(order)]]


def falls(losses: Sequence[float]) -> float:
    """Return the one-sided p-value of a falling trend against none (Mann 1945, by Kendall's tau with the step)."""
    from scipy import stats

    return float(stats.kendalltau(range(len(losses)), losses, alternative="less").pvalue)


def batch_noise(losses: Sequence[float]) -> float:
    """Return the standard deviation that the draw of the batch gives to one step's loss, nats.

    From second differences, in which a smooth curve cancels: their variance is six times that of independent noise.
    At least three losses are needed.
    """
    return float(np.sqrt(np.mean(np.diff(np.asarray(losses), n=2) ** 2) / 6))
