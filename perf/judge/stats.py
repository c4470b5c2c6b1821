"""Arrays in, estimates out. The unit is the run: steps of one process are no independent samples of anything.

Effects are of runs of two sessions, or of pairs of runs in several starts of the sides' processes. All runs of a start
inherit the addresses of their parent process, so pairs of one start share an error (docs/decisions.md, 15). Inference
is therefore on the means of starts (Student's t), as in Kalibera and Jones (2013) on their highest level.

Scipy is imported where it is used: promotion and reports take its results from here, and start without it.
Why not a bootstrap, and what these intervals cover on noise like the measured one: docs/decisions.md, 11.
"""

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from perf.records.sessions import FEWEST_STARTS, deviation

FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.95  # of the intervals that are shown
FAMILY_ERROR = 0.01  # how often a family of comparisons without any difference may find one, in either direction
POWER = 0.8  # how often a change of the size of the minimal detectable effect is found
# Factor on standard errors: neighbouring runs often share a phase of the machine's speed, and are not independent.
SHARED_PHASES = 1.15
# The quantile of a run's step times that stands for the run: below most disturbances, above lucky single steps.
RUN_QUANTILE = 0.25
OUTLIER = 5.0  # pairs farther from the median, in standard deviations, are moved to this limit
FEWEST_TO_COMPARE = 8  # with fewer pairs, none is treated as an outlier


class Effect(Struct, frozen=True, kw_only=True):
    """How the candidate's rates relate to the baseline's."""

    effect_size: float  # candidate / baseline - 1; below 0 is slower
    # low, high: its interval at `CONFIDENCE`
    low: float
    high: float
    p_value: float  # two-sided, of no effect; not corrected for other comparisons
    # the smallest slowdown, a fraction of the rate, that such data shows with probability `POWER` within its family of
    # comparisons; 1 where it shows none
    minimal_detectable_effect: float


class DuetEffect(Effect, frozen=True, kw_only=True):
    """How the candidate's rate relates to the baseline's, from pairs of runs in several starts.

    `effect_size` is at the mean of the starts' means; `low`, `high` and `p_value` are of this look alone.
    """

    level: float  # the error that this look may make for this batch size; significant is a `p_value` below it
    standard_error: float  # of the logarithm of the ratio of rates
    num_runs: int  # the number of pairs
    num_starts: int  # how many independent values there are
    elapsed_s: float  # seconds of the duet when the last start ended, divided by its batch sizes

    @property
    def is_significant(self) -> bool:
        """Whether no change is excluded, at `level`."""
        return self.p_value < self.level

    def within(self, threshold: float, *, error: float) -> bool:
        """Return whether the two-sided interval that errs in `error` of cases lies inside the threshold."""
        found = _student(float(np.log1p(self.effect_size)), self.standard_error, self.num_starts - 1, error)
        return -threshold < found["low"] and found["high"] < threshold

    def budget_for(self, threshold: float, *, level: float) -> float:
        """Return about how many seconds for each batch size would have shown a slowdown of `threshold`; inf if unknown.

        `level` is the error of the look that would show it.
        """
        if self.num_starts < 2:
            return np.inf
        deviation = self.standard_error * np.sqrt(self.num_starts) * _unbiased(self.num_starts)
        starts = FEWEST_STARTS
        while _detected(starts, level) * deviation / np.sqrt(starts) > -np.log1p(-threshold):
            starts += max(1, starts // 20)
        return self.elapsed_s / self.num_starts * starts


def run_rate(step_s: Sequence[float], global_batch_size: int) -> float:
    """Return the rate of one run, samples/sec, at its `RUN_QUANTILE` of step times (seconds)."""
    return global_batch_size / float(np.quantile(np.asarray(step_s), RUN_QUANTILE))


def compare_rates(
    candidate: Sequence[float],
    baseline: Sequence[float],
    *,
    family_size: int,  # how many comparisons are made at once
    widen: float = SHARED_PHASES,  # factor on the standard error; 1 for runs that are independent
) -> Effect:
    """Compare rates of runs, at least two of each side in any positive unit, by Welch's t-test (1947) on logarithms."""
    from scipy import special

    assert min(len(candidate), len(baseline)) >= 2
    sides = [np.log(side) for side in (candidate, baseline)]
    difference = float(sides[0].mean() - sides[1].mean())
    variances = [float(side.var(ddof=1)) / len(side) for side in sides]
    error = widen * float(np.sqrt(sum(variances)))
    terms = [v**2 / (len(side) - 1) for v, side in zip(variances, sides, strict=True)]
    freedom = sum(variances) ** 2 / sum(terms) if sum(terms) else float(sum(map(len, sides)) - 2)
    error = error or float(np.finfo(float).eps)  # made-up data has no spread
    rejected, found = (float(special.stdtrit(freedom, q)) for q in (1 - FAMILY_ERROR / 2 / family_size, POWER))
    detectable = -float(np.expm1(-(rejected + found) * error))
    return Effect(**_student(difference, error, freedom), minimal_detectable_effect=detectable)


def estimate(starts: Sequence[Sequence[float]], *, level: float, elapsed_s: float) -> DuetEffect:
    """Estimate an effect from the logarithms of its pairs, start by start, with outliers moved to the limit.

    Each start has at least one pair, and about as many as the others. `level` is the p-value below which a change is
    significant, and `elapsed_s` the seconds since the duet began, divided by its batch sizes.
    """
    assert min(map(len, starts), default=0) > 0
    values = np.concatenate(starts)
    median, room = float(np.median(values)), OUTLIER * float(deviation(values))
    # If more than half are equal, which happens only in made-up data, there is no scale to measure outliers by.
    if len(values) < FEWEST_TO_COMPARE or room == 0:
        room = np.inf
    means = [np.clip(start, median - room, median + room).mean() for start in starts]
    n, centre = len(means), float(np.mean(means))
    error = float(np.std(means, ddof=1) / np.sqrt(n)) if n > 1 else np.inf
    error = max(error, float(np.finfo(float).eps))  # made-up data has no spread
    detected = _detected(n, level) * error * _unbiased(n) if n >= FEWEST_STARTS else np.inf
    return DuetEffect(
        **_student(centre, error, n - 1),
        minimal_detectable_effect=-float(np.expm1(-detected)),
        num_runs=len(values),
        level=level,
        standard_error=error,
        num_starts=n,
        elapsed_s=elapsed_s,
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


def _student(log: float, error: float, freedom: float, missed: float = 1 - CONFIDENCE) -> dict[str, float]:
    """Return the first fields of an `Effect` by Student's t; its interval errs in `missed` of cases.

    `log` and `error` are the logarithm of the ratio of rates, and its standard error. Without freedom none is known.
    """
    half, p_value = np.inf, 1.0
    if freedom:
        from scipy import special

        half = float(special.stdtrit(freedom, 1 - missed / 2)) * error
        p_value = 2 * float(special.stdtr(freedom, -abs(log) / error))
    logs = {"effect_size": log, "low": log - half, "high": log + half}
    return {name: float(np.expm1(value)) for name, value in logs.items()} | {"p_value": p_value}


@functools.cache
def _detected(num_starts: int, level: float) -> float:
    """Return the effect, in standard errors, that is significant with probability `POWER`: noncentral t."""
    from scipy import special

    freedom = num_starts - 1
    return float(special.nctdtrinc(freedom, 1 - POWER, special.stdtrit(freedom, 1 - level / 2)))


def _unbiased(num_starts: int) -> float:
    """Return the factor that makes the median of an estimated standard error the true one."""
    from scipy import special

    freedom = num_starts - 1
    return float(np.sqrt(freedom / special.chdtri(freedom, 0.5)))
