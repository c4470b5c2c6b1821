"""Where a history changes its level: in rates, which are noisy, and in numbers that are exact."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from msgspec import Struct

from perf.judge.stats import CONFIDENCE, FAMILY_ERROR, OUTLIER, FloatArray, holm
from perf.judge.verdicts import Verdict
from perf.records.sessions import deviation

BAD, GOOD = (Verdict.REGRESSED, Verdict.LOSSES_DIFFER, "FAILED"), (Verdict.UNCHANGED, Verdict.IMPROVED)
FEWEST = 2  # values of a level
PERMUTATIONS = 9999  # a hundred tests at once can find something
WILD = 3.0  # standard deviations from the median of a segment; what is farther counts as this far in a test
NEAR, LOST = 5, 20  # a place farther off than the first, in values, is as bad as one that is off by the second


class Change(Struct, frozen=True, kw_only=True):
    """A change of level that holds up to the next one."""

    metric: str
    index: int  # of the first value after the change
    # earliest, latest: the interval of this index at `CONFIDENCE`, given that there is one change
    earliest: int
    latest: int
    effect_size: float  # level after / level before - 1; infinite after 0
    p_value: float  # of no change, corrected for all tests of the same call; 0 of exact numbers


def find_changes(series: Mapping[str, Sequence[float]]) -> list[Change]:
    """Return the changes of noisy, positive series, metric by metric, in order.

    The cheapest segmentation of the logarithms (Killick et al. 2012) proposes changes. Each is tested between its
    neighbours: values in random order, searched at all places in the same way, must rarely have as large a step. The
    least certain proposal is dropped until all are significant (Holm 1979). Of series without any change about 2 %
    show one, if values are independent, and far more if each resembles the one before (docs/measurements.md).
    """
    logs = {name: np.log(values) for name, values in series.items() if len(values) >= 2 * FEWEST}
    calm = {name: _without_outliers(values) for name, values in logs.items()}
    ends = {name: [0, *_proposed(values), len(values)] for name, values in calm.items()}
    p_value = cache(lambda name, begin, end: _p_value(logs[name][begin:end]))
    while True:
        places = [(name, *three) for name, e in ends.items() for three in zip(e, e[1:], e[2:], strict=False)]
        found = [p_value(name, begin, end) for name, begin, _, end in places]
        corrected = holm(found + [1.0 for e in ends.values() if len(e) == 2])[: len(found)]
        if max(corrected, default=0.0) <= FAMILY_ERROR:
            return [_change(name, calm[name], b, e, p) for (name, b, _, e), p in zip(places, corrected, strict=True)]
        name, _, place, _ = places[int(np.argmax(found))]
        ends[name].remove(place)


def pooled(series: Sequence[Sequence[float]]) -> list[float]:
    """Return the geometric mean of equally long series: independent noise is smaller in it, a shared step is not."""
    return [float(rate) for rate in np.exp(np.log(series).mean(axis=0))]


def exact_changes(metric: str, values: Sequence[float]) -> list[Change]:
    """Return where a number without noise differs from the one before."""
    sizes = [(now - old) / abs(old) if old else float(np.copysign(np.inf, now)) for old, now in pairwise(values)]
    return [
        Change(metric=metric, index=i, earliest=i, latest=i, effect_size=size, p_value=0.0)
        for i, size in enumerate(sizes, start=1)
        if values[i] != values[i - 1]
    ]


def bad_streak(verdicts: Sequence[str]) -> tuple[int, int] | None:
    """Return the last good session, or -1, and the first bad one after it; None if there is no bad one after it."""
    good = max((i for i, verdict in enumerate(verdicts) if verdict in GOOD), default=-1)
    return next(((good, i) for i in range(good + 1, len(verdicts)) if verdicts[i] in BAD), None)


def _without_outliers(logs: FloatArray) -> FloatArray:
    """Return values with single wild ones moved toward the median of the five around them."""
    around = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(logs, 2, mode="reflect"), 5), axis=1)
    return _clipped(logs, around, OUTLIER)


def _clipped(logs: FloatArray, centre: FloatArray | np.float64, limit: float) -> FloatArray:
    room = limit * float(deviation(logs - centre)) or np.inf  # where most are equal there is no scale
    return np.asarray(np.clip(logs, centre - room, centre + room))


def _proposed(logs: FloatArray) -> list[int]:
    """Return the changes that explain more than BIC asks for."""
    # Only where it is needed: the import takes most of a second.
    from ruptures import KernelCPD  # type: ignore[import-untyped]  # ruptures: unannotated

    variance = float(deviation(np.diff(logs))) ** 2 / 2 + float(np.finfo(float).eps)  # changes hardly matter to it
    found = KernelCPD(kernel="linear", min_size=FEWEST).fit(logs).predict(pen=2 * np.log(len(logs)) * variance)
    return [int(end) for end in found[:-1]]


def _gains(logs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the places for one change in (..., n) values, and by how much it lowers the sum of squares at each."""
    n = logs.shape[-1]
    places = np.arange(FEWEST, n - FEWEST + 1)
    sums = np.cumsum(logs - logs.mean(axis=-1, keepdims=True), axis=-1)[..., places - 1]
    return places, np.asarray(sums**2 * n / (places * (n - places)))


def _p_value(logs: FloatArray) -> float:
    """Return how often values in random order have a step as large as these."""
    logs = _clipped(logs, np.median(logs), WILD)  # whatever the order, so that the test stays exact
    rng, rows = np.random.default_rng(0), np.tile(logs, (99, 1))  # the same history always has the same answer
    least = float(_gains(logs)[1].max()) * (1 - 1e-9)  # equal but for rounding
    found = [_gains(rng.permuted(rows, axis=1))[1].max(axis=1) >= least for _ in range(PERMUTATIONS // len(rows))]
    return float(1 + np.sum(found)) / (1 + PERMUTATIONS)


def _change(metric: str, logs: FloatArray, begin: int, end: int, p_value: float) -> Change:
    """Return the one change of a segment, at the place that is expected to be least wrong.

    Each place is as probable as normal noise makes it. The most probable one is farther off than `NEAR` more often.
    """
    part = logs[begin:end]
    places, gains = _gains(part)
    variance = (len(part) * part.var() - gains.max()) / (len(part) - 2) + np.finfo(float).eps
    chances = np.exp((gains - gains.max()) / 2 / variance)
    chances /= chances.sum()
    off = np.abs(places[:, None] - places)
    place = int(places[np.argmin(np.where(off <= NEAR, off, LOST) @ chances)])
    tails = places[np.searchsorted(np.cumsum(chances), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])].tolist()
    return Change(
        metric=metric,
        index=begin + place,
        earliest=begin + min(place, *tails),
        latest=begin + max(place, *tails),
        effect_size=float(np.expm1(part[place:].mean() - part[:place].mean())),
        p_value=p_value,
    )
