"""Where a history of nights changed its level: a rule, and how often it is right on made-up histories.

``python -m docs.studies.changes`` (needs ruptures). Nothing keeps a history yet. Known faults of the
rule: docs/measurements.md, change points over nights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from perf.judge.stats import CONFIDENCE, FAMILY_ERROR, OUTLIER, FloatArray, holm
from perf.judge.verdicts import Verdict
from perf.records.sessions import deviation

BAD = (Verdict.REGRESSED, Verdict.LOSSES_DIFFER, "FAILED")
GOOD = (Verdict.UNCHANGED, Verdict.IMPROVED)

FEWEST_NIGHTS = 2  # of a level; one wild night is none
FEWEST_TO_SEARCH = 2 * FEWEST_NIGHTS  # nights; with so few a test decides nothing yet

PERMUTATIONS = 9999  # enough for the smallest p-value that a hundred metrics need
_BLOCK = 101  # permutations at a time, a divisor of the above: a history of years fits into memory

NEAR = 5  # nights; a change point that is farther off helps nobody to find the commit
LOST = 20  # how many nights off a place counts that is not near


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change of level that stayed, up to the next change."""

    metric: str
    index: int  # of the first value after the change
    # earliest, latest: the interval at `CONFIDENCE` in which this index lies
    earliest: int
    latest: int
    effect_size: float  # level after / level before - 1; infinite after a level of 0
    p_value: float  # of no change at all, corrected for the other metrics; 0 where values are exact


def find_changes(series: Mapping[str, Sequence[float]]) -> list[Change]:
    """Return the changes of positive, noisy series, by metric and night; those of one metric are one family.

    The cheapest segmentation of the logarithms (Killick et al. 2012) proposes change points. A test of each permutes
    the values between its neighbours, and searches the largest step in each permutation as in the data. The least
    certain proposal is dropped, and its neighbours are tested again, until all are significant, corrected for all
    proposals and metrics (Holm 1979). What has no trend and no memory is found wrongly in about `FAMILY_ERROR` of
    histories.

    Raises:
        ValueError: a value is not positive.
    """
    logs = {name: _logs(name, values) for name, values in series.items()}
    ends = {name: [0, *_proposed(values), len(values)] for name, values in logs.items()}
    known: dict[tuple[str, int, int], float] = {}
    while True:
        places = [(name, i) for name in ends for i in range(1, len(ends[name]) - 1)]
        segments = [(name, ends[name][i - 1], ends[name][i + 1]) for name, i in places]
        for name, begin, end in set(segments) - known.keys():
            known[name, begin, end] = _p_value(logs[name][begin:end])
        none_proposed = sum(len(found) == 2 for found in ends.values())
        p_values = holm([known[segment] for segment in segments] + none_proposed * [1.0])[: len(places)]
        if max(p_values, default=0.0) <= FAMILY_ERROR:
            return [
                _change(name, logs[name], ends[name][i - 1], ends[name][i + 1], p)
                for (name, i), p in zip(places, p_values, strict=True)
            ]
        name, i = max(zip(p_values, places, strict=True))[1]
        del ends[name][i]


def pooled(series: Mapping[object, Sequence[float]]) -> list[float]:
    """Return the geometric mean of several series, night by night: a step that all share is clearer in it.

    What the series of a night have in common beside the step does not cancel. All must have the same nights.
    """
    return [float(mean) for mean in np.exp(np.log(list(series.values())).mean(axis=0))]


def exact_changes(series: Mapping[str, Sequence[float]]) -> list[Change]:
    """Return every place where a value without noise differs from the one before it, by metric and night."""
    return [
        Change(
            metric=name,
            index=i,
            earliest=i,
            latest=i,
            effect_size=(now - before) / abs(before) if before else float(np.copysign(np.inf, now)),
            p_value=0.0,
        )
        for name, values in series.items()
        for i, (before, now) in enumerate(pairwise(values), start=1)
        if before != now
    ]


def first_bad(verdicts: Sequence[str]) -> int | None:
    """Return where the streak of bad runs at the end of a history begins; None where there is none.

    Only a good run ends a streak: one that decided nothing neither begins nor ends it.
    """
    begin = 1 + max((i for i, verdict in enumerate(verdicts) if verdict in GOOD), default=-1)
    return next((i for i in range(begin, len(verdicts)) if verdicts[i] in BAD), None)


def _logs(name: str, values: Sequence[float]) -> FloatArray:
    """Return the logarithms, of which single wild ones are moved toward the median of five nights."""
    if not all(0 < value < np.inf for value in values):
        raise ValueError(f"{name}: has a value that is not positive")
    logs = np.log(np.asarray(values, dtype=np.float64))
    if len(logs) < FEWEST_TO_SEARCH:
        return logs
    around = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(logs, 2, mode="reflect"), 5), axis=1)
    room = OUTLIER * float(deviation(logs - around)) or np.inf  # if most are equal, nothing measures outliers
    return np.asarray(np.clip(logs, around - room, around + room))


def _proposed(logs: FloatArray) -> list[int]:
    """Return the change points of the cheapest segmentation; each must explain more than noise does (BIC)."""
    from ruptures import KernelCPD  # type: ignore[import-untyped]

    if len(logs) < FEWEST_TO_SEARCH:
        return []
    # Differences of neighbours know nothing of levels.
    variance = max(float(deviation(np.diff(logs))) ** 2 / 2, float(np.finfo(float).eps))
    search = KernelCPD(kernel="linear", min_size=FEWEST_NIGHTS).fit(logs)  # squared errors, by PELT, compiled
    return [int(end) for end in search.predict(pen=2 * np.log(len(logs)) * variance)[:-1]]


def _gains(logs: FloatArray) -> FloatArray:
    """Return what a step at each place k explains of the sum of squares of (..., n) values, k from `FEWEST_NIGHTS`."""
    n = logs.shape[-1]
    k = np.arange(FEWEST_NIGHTS, n - FEWEST_NIGHTS + 1)
    sums = np.cumsum(logs - logs.mean(axis=-1, keepdims=True), axis=-1)[..., k - 1]
    return np.asarray(sums**2 * n / (k * (n - k)))


def _p_value(logs: FloatArray) -> float:
    """Return how often values in random order have as large a step, at whatever place."""
    rng = np.random.default_rng(0)  # the same history has the same answer
    largest = float(_gains(logs).max()) * (1 - 1e-9)  # equal up to rounding is as large
    block = np.tile(logs, (_BLOCK, 1))
    as_large = sum(
        int((_gains(rng.permuted(block, axis=1)).max(axis=1) >= largest).sum()) for _ in range(PERMUTATIONS // _BLOCK)
    )
    return (1 + as_large) / (1 + PERMUTATIONS)


def _change(name: str, logs: FloatArray, begin: int, end: int, p_value: float) -> Change:
    """Return the one change between two neighbours, at the place that costs least on average.

    A place is as probable as normal noise of unknown levels makes it. One that is e nights off costs e, or `LOST`
    beyond `NEAR`: the most probable place alone is beyond it more often.
    """
    part = logs[begin:end]
    gains = _gains(part)
    places = np.arange(FEWEST_NIGHTS, len(part) - FEWEST_NIGHTS + 1)
    variance = (len(part) * part.var() - gains.max()) / max(1, len(part) - 2)
    chances = np.exp((gains - gains.max()) / 2 / max(variance, np.finfo(float).eps))
    chances /= chances.sum()
    off = np.abs(places[:, None] - places)
    place = int(places[np.argmin(np.where(off <= NEAR, off, LOST) @ chances)])
    tail = (1 - CONFIDENCE) / 2
    earliest, latest = places[np.searchsorted(np.cumsum(chances), (tail, 1 - tail))]
    return Change(
        metric=name,
        index=begin + place,
        earliest=begin + min(place, int(earliest)),
        latest=begin + max(place, int(latest)),
        effect_size=float(np.expm1(part[place:].mean() - part[:place].mean())),
        p_value=p_value,
    )


NIGHTS, NOISE, STEP = 60, 0.02, 0.03


def history(rng: np.random.Generator, at: int | None, memory: float = 0.0, sizes: int = 1) -> dict[str, list[float]]:
    """Return the rates of nights, for each batch size; from night `at` on they are lower by `STEP`.

    `memory` is how much of a night's noise goes on to the next.
    """
    found = {}
    for size in range(sizes):
        noise = rng.normal(scale=NOISE, size=NIGHTS)
        for night in range(1, NIGHTS):
            noise[night] = memory * noise[night - 1] + np.sqrt(1 - memory**2) * noise[night]
        rates = np.exp(noise)
        rates[len(rates) if at is None else at :] *= 1 - STEP
        found[str(size)] = [float(rate) for rate in rates]
    return found


def main() -> None:
    """Print how often the rule finds a step near its place, and how often it finds one where there is none."""
    rng = np.random.default_rng(1)
    print("| the step is at | batch sizes, pooled | within five nights | not found | other points |")
    print("|---|---|---|---|---|")
    for sizes in (1, 3):
        for at in (15, 30, 45):
            near = missed = others = 0
            for _ in range(200):
                found = find_changes({"rate": pooled(history(rng, at, sizes=sizes))})
                hits = [change for change in found if abs(change.index - at) <= NEAR]
                near, missed, others = near + bool(hits), missed + (not found), others + len(found) - len(hits[:1])
            print(f"| night {at} | {sizes} | {near} of 200 | {missed} | {others} |")
    for memory in (0.0, 0.5):
        wrong = sum(len(find_changes(history(rng, None, memory))) for _ in range(1000))
        print(f"no step, memory {memory}: {wrong} points in 1000 histories, {wrong / NIGHTS:.2f} per 1000 nights")


if __name__ == "__main__":
    main()
