"""A run that makes slices of steps and stands still in between."""

import time

import torch

from perf.logs.runlog import LogLine, Mark, Rates
from perf.records.wire import Stepped
from perf.train.devices import synchronize
from perf.train.stepping import Stepping


class Slices:
    """A run's marks and log lines, slice by slice. What passes between two slices counts in neither.

    On a CPU there is a mark after each step. On a GPU the steps are marked by events, which do not wait for it; the
    first and the last mark of a slice are read from the clock after the device has finished.
    """

    def __init__(self, stepping: Stepping, device: torch.device, global_batch_size: int) -> None:
        self._stepping, self._device, self._global_batch_size = stepping, device, global_batch_size
        self._spent_s = 0.0
        self._rates = Rates(began=self._mark(0.0), latest=self._mark(0.0))

    def make(self, num_steps: int) -> Stepped:
        """Make a slice. Reading its losses and writing its log line are part of its time, as in a training run."""
        stepping, first = self._stepping, len(self._stepping.losses)
        on_gpu = self._device.type != "cpu"
        marks = [self._now()]
        events = [_recorded_event()] if on_gpu else []
        for _ in range(num_steps - 1):
            stepping.step()
            if on_gpu:
                events.append(_recorded_event())
            else:
                marks.append(self._now())
        stepping.step()
        stepping.read()
        self._rates = rates = self._rates.at(self._mark(self._spent_s + self._now() - marks[0]))
        step, loss = stepping.global_step, stepping.losses[-1]
        line = str(LogLine(global_step=step, loss=loss, rate=rates.rate, global_rate=rates.global_rate))
        ended_s = self._now()
        self._spent_s += ended_s - marks[0]
        return Stepped(
            marks=(*marks, *(marks[0] + 1e-3 * events[0].elapsed_time(event) for event in events[1:]), ended_s),
            losses=tuple(stepping.losses[first:]),
            scalars={name: tuple(values[first:]) for name, values in stepping.scalars.items()},
            lines=(line,),
        )

    def _now(self) -> float:
        synchronize(self._device)
        return time.perf_counter()

    def _mark(self, time_s: float) -> Mark:
        return Mark(samples=self._global_batch_size * len(self._stepping.losses), time_s=time_s)


def _recorded_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch: unannotated
    event.record()
    return event
