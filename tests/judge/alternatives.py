"""What other ways to compare two sessions would cover and call: the table of docs/decisions.md, 11.

Run with ``python -m tests.judge.alternatives``. A/A sessions of tests/judge/noise.py; the interval that covers most is
not the best: the one that covers what it says and is narrow is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from perf.judge.stats import CONFIDENCE, FloatArray, compare_rates, run_rate
from tests.judge.noise import PHASES, step_times

Interval = tuple[float, float]
Method = Callable[[FloatArray, FloatArray, np.random.Generator], Interval]
NUM_RESAMPLES = 400


def main() -> None:
    """Print how often each method's interval covers no effect, and its median half width."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", type=int, default=1000)
    num_families = parser.parse_args().families
    print("| 95 % interval by |" + "".join(f" phases {phases} |" for phases in PHASES))
    print("|---|" + "---|" * len(PHASES))
    found: dict[str, list[str]] = {name: [] for name in METHODS}
    for phases in PHASES:
        rng = np.random.default_rng(7)
        pairs = [(step_times(rng, phases=phases)[0], step_times(rng, phases=phases)[0]) for _ in range(num_families)]
        for name, method in METHODS.items():
            intervals = np.array([method(candidate, baseline, rng) for candidate, baseline in pairs])
            covered = float(np.mean((intervals[:, 0] <= 0) & (intervals[:, 1] >= 0)))
            half_width = float(np.median(intervals[:, 1] - intervals[:, 0])) / 2
            found[name].append(f"{covered:.1%}, ±{half_width:.1%}")
    for name, cells in found.items():
        print(f"| {name} | {' | '.join(cells)} |")


def _bootstrap(estimate: Callable[[FloatArray], FloatArray]) -> Method:
    """Return the percentile bootstrap over runs of a logarithm of time, estimated from (..., R, N) steps."""

    def interval(candidate: FloatArray, baseline: FloatArray, rng: np.random.Generator) -> Interval:
        logs = [
            estimate(side[rng.integers(len(side), size=(NUM_RESAMPLES, len(side)))]) for side in (candidate, baseline)
        ]
        low, high = np.quantile(logs[0] - logs[1], ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
        return float(low), float(high)

    return interval


def _welch(widen: float) -> Method:
    def interval(candidate: FloatArray, baseline: FloatArray, rng: np.random.Generator) -> Interval:
        rates = [[run_rate(steps, 512) for steps in side.tolist()] for side in (candidate, baseline)]
        effect = compare_rates(rates[0], rates[1], family_size=3, widen=widen)
        return effect.low, effect.high

    return interval


METHODS: dict[str, Method] = {
    "bootstrap over runs, 10th percentile of all steps": _bootstrap(
        lambda steps: np.asarray(np.log(np.quantile(steps.reshape(*steps.shape[:-2], -1), 0.1, axis=-1)))
    ),
    "bootstrap over runs, median of all steps": _bootstrap(
        lambda steps: np.asarray(np.log(np.median(steps.reshape(*steps.shape[:-2], -1), axis=-1)))
    ),
    "bootstrap over runs, mean of lower quartiles": _bootstrap(
        lambda steps: np.asarray(np.log(np.quantile(steps, 0.25, axis=-1)).mean(axis=-1))
    ),
    "Welch, mean of lower quartiles": _welch(1.0),
    "the same, errors times 1.15": _welch(1.15),
}


if __name__ == "__main__":
    main()
