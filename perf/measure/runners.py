"""The runner of a side, asked in typed messages; every error names its side."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress

import msgspec

from perf.measure.processes import Process
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


class Runner(Process):
    """The process of a side. It does one request at a time, each in a fresh process of its own.

    Args:
        stack: ends the process.
        side: whose process it is.

    Raises:
        MeasureError: it could not be started.
    """

    def __init__(self, stack: ExitStack, side: Side) -> None:
        where = f"{side.name} side ({side.text}): " if side.name else ""
        super().__init__(stack, side.command, environ=side.environ, cwd=side.root, where=where)
        self._can = frozenset[str]()

    def ready(self) -> None:
        """Wait until it has imported what its runs need."""
        ready = self.answer("ready", Ready)
        if ready.protocol < VERSION:
            raise self.error(
                f"speaks version {ready.protocol} of the wire, and {VERSION} or later is needed; use a later commit"
            )
        self._can = frozenset(ready.can)

    def request(self, request: Request) -> None:
        """Ask for something; the answers are to be waited for."""
        if request.do not in self._can:
            raise self.error(f"cannot be asked to {request.do}; use a commit whose sides can")
        self.send(msgspec.json.encode(request).decode())

    def waiting(self) -> Waiting:
        """Return the run that was asked for, when it has been built and warmed up."""
        waiting = self.answer("waiting", Waiting)
        with suppress(OSError):  # it has ended, or this system has no process groups
            if os.getpgid(waiting.pid) != self.pid:
                raise self.error(f"said 'waiting' with pid = {waiting.pid}, which is none of its processes")
        return waiting

    def tell(self, num_steps: int) -> None:
        """Let the run make so many steps; `stepped` waits for them."""
        self.send(f"{num_steps}")

    def stepped(self) -> Stepped:
        """Return the slice that the run was told to make."""
        return self.answer("stepped", Stepped)

    def end_run(self) -> None:
        """End the run."""
        self.tell(0)
        self.answer("ended", Ended)

    def counted(self) -> Counted:
        """Return the counts that were asked for."""
        return self._last_answer("counted", Counted)

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
        return self._last_answer("attributed", Attributed)

    def _last_answer(self, event: str, kind: type[Answer]) -> Answer:
        answer = self.answer(event, kind)
        self.answer("ended", Ended)
        return answer
