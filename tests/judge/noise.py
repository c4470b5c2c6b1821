"""Synthetic sessions with noise like the measured one.

The figures are those of two cores of a shared machine: its speed moves by 25 to 40 % in phases of 10 to 30 s, steps of
a run are correlated (0.8 from one to the next), and every process has an effect of its own (2 to 3 %).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from perf.records.sessions import Fingerprint, MeasuredRun, Measurement, Session, StepCounters, find_warmup

FloatArray = npt.NDArray[np.float64]

SIZES = (512, 1024, 2048)
STEP_S = (0.075, 0.15, 0.3)
NUM_STEPS, SLICE_STEPS = 20, 4
START_S, COUNT_S = 7.5, 4.0
"""What a round spends before and after its steps."""

PHASES = ("anywhere", "fast or slow", "in turns")
"""How fast a phase is: any speed within the range; fast or slow by the toss of a coin; fast and slow in turns."""


def step_times(rng: np.random.Generator, *, phases: str = "anywhere", num_runs: int = 6) -> FloatArray:
    """Return (B, R, N) seconds: N steps of R runs at B batch sizes, interleaved as `perf.measure.runs` does it.

    Args:
        rng: all that is random.
        phases: one of `PHASES`.
        num_runs: rounds.
    """
    begins = np.zeros((len(SIZES), num_runs, NUM_STEPS))
    now = 0.0
    for number in range(num_runs):
        now += START_S
        for first in range(0, NUM_STEPS, SLICE_STEPS):
            for size in rng.permutation(len(SIZES)):
                begins[size, number, first : first + SLICE_STEPS] = now + STEP_S[size] * np.arange(SLICE_STEPS)
                now += STEP_S[size] * SLICE_STEPS
        now += COUNT_S
    logs = _speed(rng, begins, now, phases)
    shocks = rng.normal(scale=0.03 * 0.6, size=logs.shape)
    logs += lfilter([1.0], [1.0, -0.8], shocks, axis=-1)
    logs += rng.normal(scale=0.025, size=(len(SIZES), num_runs, 1))
    logs += np.log(STEP_S)[:, None, None]
    return np.asarray(np.exp(logs))


def _speed(rng: np.random.Generator, begins: FloatArray, end: float, phases: str) -> FloatArray:
    """Return the logarithm of how much slower than its best the machine is when each step begins."""
    ends = np.cumsum(rng.uniform(10, 30, size=int(end / 10) + 2)) - rng.uniform(0, 20)
    slow = np.log1p(rng.uniform(0.25, 0.40, size=len(ends)))
    if phases == "anywhere":
        levels = slow.mean() * rng.uniform(size=len(ends))
    elif phases == "fast or slow":
        levels = slow * rng.integers(2, size=len(ends))
    else:
        levels = slow * ((np.arange(len(ends)) + rng.integers(2)) % 2)
    return np.asarray(levels[np.searchsorted(ends, begins)])


COUNTERS = StepCounters(
    ops={"aten::add": 18, "aten::copy_": 1, "aten::mm": 26},
    flops=2_399_338_496,
    allocated_bytes=183_780_272,
    peak_bytes=91_877_388,
    device_peak_bytes=0,
    host_syncs=0,
    parameters=62_594,
    optimizer_updates=1,
    python_calls=1574,
)
HERE = Fingerprint(
    hardware={"cpu": "Test CPU", "cores": 2, "isa": "AVX2", "memory_gib": 24, "gpu": "none", "num_gpus": 0},
    software={"python": "3.11.7", "torch": "2.13.0+cpu", "numpy": "2.4.6", "threads": 2},
)
LOSSES = tuple(float(loss) for loss in 7.64 - 0.04 * np.arange(NUM_STEPS) + 0.01 * np.cos(7 * np.arange(NUM_STEPS)))


def session(times: FloatArray, *, sizes: tuple[int, ...] = SIZES, fingerprint: Fingerprint = HERE) -> Session:
    """Return a session with the given (B, R, N) step times; losses and counters are the same in all runs."""
    return Session(
        workload="pico",
        device="cpu",
        precision="fp32",
        seed=0,
        fingerprint=fingerprint,
        python="3.11",
        measurements={
            size: Measurement(
                global_batch_size=size,
                micro_batch_size=512,
                runs=tuple(
                    MeasuredRun(
                        step_s=tuple(steps),
                        warmup_steps=find_warmup(steps),
                        losses=LOSSES,
                        lines=("Step=20, Loss=6.88000, Rate=1.00 samples/sec, GlobalRate=1.00 samples/sec",),
                        counters=COUNTERS,
                    )
                    for steps in runs.tolist()
                ),
            )
            for size, runs in zip(sizes, times, strict=True)
        },
        failures={},
    )
