"""A subprocess: commands in, JSON lines out; killed on exit, with everything it started."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
import uuid
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from perf.errors import MeasureError
from perf.printable import printable
from perf.records.wire import Answer, Header, decode
from perf.signals import hold_signals

ANSWER_TIMEOUT_S = 600.0
"""How long a process may take to start, to make one slice, or to count."""

END_TIMEOUT_S = 30.0
"""How long killed processes may take to be gone; the memory of a GPU is given back slowly."""

ANSWER_BYTES = 2**24
"""Where an answer without an end is cut. The longest, of a run of 100,000 steps, takes a fifth of it."""

STDERR_BYTES = 2**16
"""How much of the end of a process's stderr is kept, in memory."""

QUOTED_CHARACTERS = 1000
"""How much of a process's own words goes into an error."""

MARK = "STEPMARK_RUN"
"""The environment variable that tells which processes belong together, also those that left the process group."""


class Process:
    """A measuring process, in a process group of its own: whatever it starts ends with it.

    On Linux that includes what has left the group (a daemon), as long as it keeps its environment.

    Args:
        command: what to run.
        environ: its environment.
        cwd: where it runs; None for here.
    """

    def __init__(self, command: Sequence[str], *, environ: Mapping[str, str], cwd: Path | None = None) -> None:
        mark = uuid.uuid4().hex
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**environ, MARK: mark},
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            raise MeasureError(f"could not be started: {error}") from None
        # Also where an interrupt came just before __exit__: when the object is dropped, at the latest at the exit.
        self._end = weakref.finalize(self, _end, self._process, f"{MARK}={mark}".encode())
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._stderr = _Tail(self._process.stderr)
        self._unread = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with hold_signals():
            left = self._end()
            self._stderr.close()
        if left:
            raise MeasureError(f"process {', '.join(map(str, left))} could not be ended; end it by hand")

    @property
    def pid(self) -> int:
        """Its process, and the group of all that it starts."""
        return self._process.pid

    def fileno(self) -> int:
        """Return what `select` waits on for an answer."""
        return self._stdout.fileno()

    def tell(self, line: str = "go") -> Self:
        """Let the process do what comes next."""
        with suppress(BrokenPipeError):  # it has ended; the answer that does not come says why
            self._stdin.write(line.encode() + b"\n")
        return self

    def answer(self, event: str, kind: type[Answer], *, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """Return the next answer, which must be `event`.

        Raises:
            MeasureError: it failed, ended, said something else, or said nothing whole for `timeout_s`.
        """
        line = self._line(timeout_s)
        try:
            header = msgspec.json.decode(line, type=Header)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise MeasureError(f"said {line[:80]!r}, which is no answer{self._last_words()}") from None
        if header.event == "ended" != event:
            raise MeasureError(f"{_ended(header.exit_code)}{self._last_words()}")
        if header.event != event:
            raise MeasureError(_quoted(header.reason or f"said {header.event!r} where {event!r} was due"))
        try:
            return decode(line, kind)
        except MeasureError as error:
            raise MeasureError(_quoted(str(error))) from None

    def _line(self, timeout_s: float) -> bytes:
        """Return the next line; the time is that of the whole line, however slowly it comes."""
        deadline_s = time.monotonic() + timeout_s
        searched = 0
        while (end := self._unread.find(b"\n", searched)) < 0:
            searched = len(self._unread)
            if searched > ANSWER_BYTES:
                raise MeasureError(f"said {searched:,} bytes without an end of line, no answer{self._last_words()}")
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([self._stdout], [], [], left_s)[0]:
                raise MeasureError(f"no answer within {timeout_s:.0f} s{self._last_words()}")
            some = self._stdout.read(2**16)
            if not some:
                raise MeasureError(f"{self._how_it_ended()}{self._last_words()}")
            self._unread += some
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line

    def _how_it_ended(self) -> str:
        try:
            ended = _ended(self._process.wait(END_TIMEOUT_S))
        except subprocess.TimeoutExpired:
            ended = "closed its output and did not end"
        return f"{ended}, after {bytes(self._unread[:80])!r} without an end of line" if self._unread else ended

    def _last_words(self) -> str:
        lines = self._stderr.text().strip().splitlines()[-3:]
        return f"; its last lines: {_quoted(' | '.join(lines))}" if lines else ""


def started(
    stack: ExitStack, command: Sequence[str], *, environ: Mapping[str, str], cwd: Path | None = None
) -> Process:
    """Start a process that ends with `stack`. A signal that comes meanwhile is held until both are done.

    Raises:
        MeasureError: it could not be started.
    """
    with hold_signals():
        process = Process(command, environ=environ, cwd=cwd)
        stack.callback(process._end)  # for an interrupt that comes in __exit__ before the signals are held there
        return stack.enter_context(process)


class _Tail:
    """The end of what a process writes, read by a thread: the process need not wait, and nothing fills a disk."""

    def __init__(self, file: IO[bytes]) -> None:
        os.set_blocking(file.fileno(), False)
        self._file, self._kept, self._lock = file, b"", threading.Lock()
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def text(self) -> str:
        """Return the end of what has been written so far."""
        self._read()
        return self._kept.decode(errors="replace")

    def close(self) -> None:
        """Wait until the thread has ended; it does when the last writer has."""
        self._reader.join(1.0)

    def _follow(self) -> None:
        while self._read():
            select.select([self._file], [], [])
        with self._lock:
            self._file.close()

    def _read(self) -> bool:
        """Read what the pipe holds; return whether more can come."""
        with self._lock:
            some = b"" if self._file.closed else self._file.read(2**16)
            self._kept = (self._kept + (some or b""))[-STDERR_BYTES:]
        return some != b""


def _end(process: subprocess.Popen[bytes], mark: bytes) -> list[int]:
    """Kill a process and all that it has started; return which are still there after `END_TIMEOUT_S`."""
    deadline_s = time.monotonic() + END_TIMEOUT_S
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, of a group that has ended
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return [process.pid]
    while left := _marked(mark):
        if time.monotonic() > deadline_s:
            return left
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    return []


def _marked(mark: bytes) -> list[int]:
    """Return the processes with this setting in their environment; those that have ended have none. Linux only."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # another user's, or gone meanwhile
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def _quoted(text: str) -> str:
    """Return a process's own words as one line of printable characters, not too many."""
    words = " ".join(text[: 2 * QUOTED_CHARACTERS].split())
    return printable(words[:QUOTED_CHARACTERS])


def _ended(exit_code: object) -> str:
    names = {-number: number.name for number in signal.Signals}
    if isinstance(exit_code, int) and exit_code in names:
        return f"ended by {names[exit_code]}"
    return _quoted(f"ended with exit code {exit_code if isinstance(exit_code, int | None) else 'unknown'}")
