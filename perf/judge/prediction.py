"""What a batch size that was not run would have given: the time of a step is a fixed part and a part per sample."""

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

from perf.judge.stats import CONFIDENCE
from perf.records.baselines import PublishedLine


class Prediction(Struct, frozen=True, kw_only=True):
    """A rate that follows from two others; samples/sec."""

    global_batch_size: int
    samples_per_sec: float
    # low, high: its interval at `CONFIDENCE`, from how much the log windows vary; of the model it says nothing
    low: float
    high: float
    # fixed_s, per_sample_s: the parts of a step's time
    fixed_s: float
    per_sample_s: float


def window_step_s(lines: Sequence[PublishedLine]) -> list[float]:
    """Return the seconds of a step in each log window but the first, in which a tracker's clock may start late."""
    ends = [line.global_batch_size * line.global_step / line.global_rate_samples_per_sec for line in lines]
    return [float(s) for s in np.diff(ends) / np.diff([line.global_step for line in lines])]


def predict(windows: Mapping[int, Sequence[float]], global_batch_size: int) -> Prediction:
    """Predict the rate at a batch size from the step times of two others, at least two log windows of each.

    The straight line through both means; its error is theirs, with the degrees of freedom of Welch and Satterthwaite.
    """
    from scipy import special

    (one, first), (two, second) = sorted(windows.items())
    weights = np.array([two - global_batch_size, global_batch_size - one]) / (two - one)
    means = np.array([np.mean(first), np.mean(second)])
    terms = weights**2 * [np.var(side, ddof=1) / len(side) for side in (first, second)]
    freedom = terms.sum() ** 2 / (terms**2 / [len(first) - 1, len(second) - 1]).sum()
    step_s, error = float(weights @ means), float(np.sqrt(terms.sum()))
    half = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    per_sample_s = float((means[1] - means[0]) / (two - one))
    return Prediction(
        global_batch_size=global_batch_size,
        samples_per_sec=global_batch_size / step_s,
        low=global_batch_size / (step_s + half),
        high=global_batch_size / (step_s - half),
        fixed_s=float(means[0] - one * per_sample_s),
        per_sample_s=per_sample_s,
    )
