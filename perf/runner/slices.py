"""A run that steps in slices, when it is told to, and stands still in between."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from perf.records.wire import Stepped
from perf.train.devices import World, synchronize
from perf.train.loop import timed_region
from perf.train.stepping import Stepping

ENDLESS = 2**62


class RunOverError(Exception):
    """The run was told to end."""


class Slices:
    """The clock of a run and its marks, slice by slice.

    On a CPU there is a mark after each step. On a GPU the steps are marked by events, which do not wait for it; the
    first and the last mark of a slice are read from the clock after the device has finished.

    Args:
        next_slice: is given the slice that has ended, or None before the first, and returns the next one's steps; 0
            ends.
        stepping: what is advanced.
        device: where it computes.
    """

    def __init__(self, next_slice: Callable[[Stepped | None], int], stepping: Stepping, device: torch.device) -> None:
        self._next_slice, self._stepping, self._device = next_slice, stepping, device
        self._paused_s = 0.0
        self._end_step: int | None = None
        self._reported = len(stepping.losses)
        self._marks: list[float] = []
        self._events: list[torch.cuda.Event] = []
        self._lines: list[str] = []

    def run(self, global_batch_size: int) -> None:
        """Step until told to end."""
        try:
            timed_region(
                self._stepping,
                World(),
                global_batch_size=global_batch_size,
                last_step=ENDLESS,
                to_log=lambda step: step == self._end_step,
                finish=self._finish,
                on_line=self._lines.append,
                on_step=self._after_step,
                clock=self._clock,
            )
        except RunOverError:
            return

    def _finish(self) -> None:
        synchronize(self._device)

    def _clock(self) -> float:
        """Return the seconds spent stepping; the first reading waits for the first slice."""
        if self._end_step is None:
            self._pause(time.perf_counter(), None)
        return time.perf_counter() - self._paused_s

    def _after_step(self) -> None:
        """Mark a step; at the end of a slice, report it and wait for the next."""
        is_last = self._stepping.global_step == self._end_step
        if self._device.type == "cpu" or is_last:
            self._finish()
            self._marks.append(time.perf_counter())
        else:
            self._record_event()
        if is_last:
            self._pause(self._marks[-1], self._slice())

    def _slice(self) -> Stepped:
        stepping, first = self._stepping, self._reported
        lines, self._lines[:] = tuple(self._lines), []
        self._reported = len(stepping.losses)
        return Stepped(
            marks=tuple(self._all_marks()),
            losses=tuple(stepping.losses[first:]),
            scalars={name: tuple(values[first:]) for name, values in stepping.scalars.items()},
            lines=lines,
        )

    def _pause(self, now_s: float, ended: Stepped | None) -> None:
        num_steps = self._next_slice(ended)
        if not num_steps:
            raise RunOverError
        self._end_step = self._stepping.global_step + num_steps
        self._finish()
        began_s = time.perf_counter()
        self._paused_s += began_s - now_s
        self._marks, self._events = [began_s], []
        if self._device.type != "cpu":
            self._record_event()

    def _record_event(self) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch: unannotated
        event.record()
        self._events.append(event)

    def _all_marks(self) -> list[float]:
        """Return a mark for each step, from the clock and, in between, from events after the slice's first."""
        if not self._events:
            return self._marks
        began, *steps = self._events
        return [self._marks[0], *(self._marks[0] + 1e-3 * began.elapsed_time(step) for step in steps), self._marks[-1]]
