"""A process that is told what to do in lines and answers in JSON lines; it never outlives the ``with`` block."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from perf.errors import MeasureError
from perf.signals import hold_signals

Answer = dict[str, Any]

ANSWER_TIMEOUT_S = 600.0
"""How long a process may take to start, to make one slice, or to count."""


class Process:
    """A measuring process, in a process group of its own: whatever it starts ends with it.

    Args:
        command: what to run.
        environ: its environment.
        cwd: where it runs; None for here.
    """

    def __init__(self, command: Sequence[str], *, environ: Mapping[str, str], cwd: Path | None = None) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._unread = b""
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                env=environ,
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise MeasureError(f"could not be started: {error}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._stdin.close()
        self._stdout.close()
        self._process.wait()
        self._stderr.close()

    def fileno(self) -> int:
        """Return what `select` waits on for an answer."""
        return self._stdout.fileno()

    def tell(self, line: str = "go") -> Self:
        """Let the process do what comes next."""
        with suppress(BrokenPipeError):  # it has ended; the answer that does not come says why
            self._stdin.write(line.encode() + b"\n")
        return self

    def answer(self, event: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """Return the next answer, which must be `event`.

        Raises:
            MeasureError: it failed, ended, said something else, or said nothing whole for `timeout_s`.
        """
        while b"\n" not in self._unread:
            if not select.select([self._stdout], [], [], timeout_s)[0]:
                raise MeasureError(f"no answer within {timeout_s:.0f} s{self._last_words()}")
            some = self._stdout.read(2**16)
            if not some:
                raise MeasureError(f"{_ended(self._process.wait())}{self._last_words()}")
            self._unread += some
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            found: Answer = json.loads(line)
            said = found["event"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise MeasureError(f"said {line[:80]!r}, which is no answer{self._last_words()}") from None
        if said == "ended" != event:
            raise MeasureError(f"{_ended(found.get('exit_code'))}{self._last_words()}")
        if said != event:
            raise MeasureError(found.get("reason", f"said {said!r} where {event!r} was due"))
        return found

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()[-3:]
        return f"; its last lines: {' | '.join(lines)}" if lines else ""


def started(
    stack: ExitStack, command: Sequence[str], *, environ: Mapping[str, str], cwd: Path | None = None
) -> Process:
    """Start a process that ends with `stack`. A signal that comes meanwhile is held until both are done.

    Raises:
        MeasureError: it could not be started.
    """
    with hold_signals():
        return stack.enter_context(Process(command, environ=environ, cwd=cwd))


def _ended(exit_code: object) -> str:
    names = {-number: number.name for number in signal.Signals}
    if exit_code in names:
        return f"ended by {names[exit_code]}"
    return f"ended with exit code {exit_code}"
