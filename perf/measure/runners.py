"""A runner process, asked in typed messages; every error names its side."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import msgspec

from perf.errors import MeasureError
from perf.measure.processes import started
from perf.measure.sides import Side
from perf.records.wire import (
    VERSION,
    Answer,
    Attributed,
    CaseSpec,
    Counted,
    Ended,
    Ready,
    Request,
    SideWork,
    Stepped,
    Waiting,
    side_work,
)

TIMEOUT_S = 600.0
"""How long a runner may take to start, to count, or to make one slice."""


class Runner:
    """The process of a side. It does one request at a time, each in a fresh process of its own.

    Args:
        stack: ends the process.
        side: whose process it is.

    Raises:
        MeasureError: it could not be started.
    """

    def __init__(self, stack: ExitStack, side: Side) -> None:
        self._side, self._can = side, frozenset[str]()
        with self.named():
            self.process = started(stack, side.command, environ=side.environ, cwd=side.root)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Say which side an error is of."""
        try:
            yield
        except MeasureError as error:
            where = f"{self._side.name} side ({self._side.text}): " if self._side.name else ""
            raise MeasureError(f"{where}{error}") from None

    def answer(self, event: str, kind: type[Answer]) -> Answer:
        """Return the next answer, which must be `event`."""
        with self.named():
            return self.process.answer(event, kind, timeout_s=TIMEOUT_S)

    def ready(self) -> None:
        """Wait until it has imported what its runs need."""
        with self.named():
            try:
                self._can = frozenset(self.process.answer("ready", Ready, timeout_s=TIMEOUT_S).can)
            except MeasureError as error:
                if "protocol" not in str(error):
                    raise
                raise MeasureError(
                    f"speaks another version of the wire, and {VERSION} or later is needed; "
                    f"use a later commit ({error})"
                ) from None

    def request(self, request: Request) -> None:
        """Ask for something; the answers are to be waited for."""
        if request.do not in self._can:
            with self.named():
                raise MeasureError(f"cannot be asked to {request.do}; use a commit whose sides can")
        self.process.tell(msgspec.json.encode(request).decode())

    def waiting(self) -> Waiting:
        """Return the run that was asked for, when it has been built and warmed up."""
        waiting = self.answer("waiting", Waiting)
        with self.named(), suppress(OSError):  # it has ended, or this system has no process groups
            if os.getpgid(waiting.pid) != self.process.pid:
                raise MeasureError(f"said 'waiting' with pid = {waiting.pid}, which is none of its processes")
        return waiting

    def tell(self, num_steps: int) -> None:
        """Let the run make so many steps; `stepped` waits for them."""
        self.process.tell(f"{num_steps}")

    def stepped(self) -> Stepped:
        """Return the slice that the run was told to make."""
        return self.answer("stepped", Stepped)

    def end_run(self) -> None:
        """End the run."""
        self.process.tell("0")
        self.answer("ended", Ended)

    def counted(self) -> Counted:
        """Return the counts that were asked for."""
        counted = self.answer("counted", Counted)
        self.answer("ended", Ended)
        return counted

    def work(self, case: CaseSpec, counted: Counted, *, num_threads: int, num_steps: int) -> SideWork:
        """Return what a step does, and what the first steps return, in a run of its own."""
        self.request(Request(do="run", case=case, num_threads=num_threads))
        self.waiting()
        self.tell(num_steps)
        first = self.stepped()
        self.end_run()
        return side_work(counted, first.losses, first.scalars)

    def attribute(self, case: CaseSpec, *, num_threads: int, layout: int) -> Attributed:
        """Return where the time of a step goes."""
        self.request(Request(do="attribute", case=case, num_threads=num_threads, layout=layout))
        attributed = self.answer("attributed", Attributed)
        self.answer("ended", Ended)
        return attributed
