"""Rates in samples per second, from marks that hold a count and the time it was reached."""

from __future__ import annotations

from dataclasses import dataclass, replace

SMOOTHING = 0.6  # weight of the newest log window in the smoothed rate; the rest is the previous rate's

LAST_DIGIT = 0.01
"""The last printed digit of a rate, samples/sec: a printed rate may be off by it (rounded or truncated)."""

MOMENT_S = 0.001  # the most time that is allowed between two readings of the clock for one line, seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A sample count and the clock, read together once the device had finished."""

    samples: int  # training examples completed since the run's process started training
    time_s: float  # a monotonic clock, seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """The smoothed and the global rate at a mark. Immutable: `at` returns the rates of the next mark."""

    began: Mark  # where the timed region began
    latest: Mark  # the newest mark
    # samples/sec, smoothed over log windows: 0.6 x this window + 0.4 x the previous rate; the first window's rate
    # stands alone. None before the first window has ended.
    rate: float | None = None

    @classmethod
    def since(cls, mark: Mark) -> Rates:
        """Begin the timed region at `mark`."""
        return cls(began=mark, latest=mark)

    def at(self, mark: Mark) -> Rates:
        """Return the rates once the log window from the latest mark to `mark` has ended.

        Raises:
            ValueError: the clock did not advance.
        """
        window = _per_sec(self.latest, mark)
        rate = window if self.rate is None else SMOOTHING * window + (1 - SMOOTHING) * self.rate
        return replace(self, latest=mark, rate=rate)

    @property
    def global_rate(self) -> float:
        """Samples/sec since the timed region began."""
        return _per_sec(self.began, self.latest)


def _per_sec(start: Mark, end: Mark) -> float:
    if end.time_s <= start.time_s:
        raise ValueError(f"the clock must advance between marks: {start.time_s} s, then {end.time_s} s")
    return (end.samples - start.samples) / (end.time_s - start.time_s)
