"""A runner: requests in, JSON lines out, in typed messages; killed on exit, with everything it started."""

import os
import select
import signal
import subprocess
import time
import uuid
import weakref
from contextlib import ExitStack, suppress
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

import msgspec
import psutil

from perf.errors import MeasureError
from perf.measure.sides import Side
from perf.printable import printable
from perf.records import wire
from perf.records.wire import CaseSpec, Expected
from perf.signals import hold_signals

ANSWER_TIMEOUT_S = 600.0  # how long a process may take to start, to make one slice, or to count
END_TIMEOUT_S = 30.0  # how long killed processes may take to be gone; the memory of a GPU is given back slowly
ANSWER_BYTES = 2**24  # where an answer without an end is cut; the longest, of 100,000 steps, takes a fifth of it
STDERR_BYTES = 2**16  # how much of the end of a process's stderr an error looks at
MOST_STDERR_BYTES = 2**28  # where its file is emptied, looked at every second: nothing fills a disk
# The environment variable that tells which processes belong together, also those that left the process group.
MARK = "STEPMARK_RUN"


class Runner:
    """The process of a side. It does one request at a time, each in a fresh process of its own.

    It has a process group of its own, and whatever it starts ends with it. That includes what has left the group
    (a daemon), as long as it keeps its environment. A signal that comes while it is started is held until it is
    sure to end. `stack` ends the process. Every error names the side, also where it could not be started.
    """

    def __init__(self, stack: ExitStack, side: Side) -> None:
        self._where = f"{side.name} side ({side.text}): " if side.name else ""
        self._least_timeout_s = side.timeout_s or 0.0
        self._can, self._unread, mark = frozenset[str](), b"", uuid.uuid4().hex
        with hold_signals():
            # No pipe: the process need not wait for a reader.
            self._stderr = stack.enter_context(TemporaryFile())  # noqa: SIM115  # the stack closes it
            try:
                self._process = subprocess.Popen(
                    side.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._stderr,
                    bufsize=0,
                    env={**side.environ, MARK: mark},
                    cwd=side.root,
                    start_new_session=True,
                )
            except OSError as error:
                raise self.error(f"could not be started: {error}") from None
            # Also where an interrupt skips the stack: when the object is dropped, at the latest at the exit.
            self._end = weakref.finalize(self, _end, self._process, self._stderr, mark, side.grace_s)
            stack.callback(self._end)  # for an interrupt that comes in `_close` before the signals are held there
            stack.callback(self._close)
            assert self._process.stdin
            assert self._process.stdout
            self._stdin, self._stdout = self._process.stdin, self._process.stdout
            self.pid = self._process.pid  # and the group of all that it starts

    def _close(self) -> None:
        with hold_signals():
            left = self._end()
        if left:
            raise self.error(f"process {', '.join(map(str, left))} could not be ended; end it by hand")

    def fileno(self) -> int:
        """Return what `select` waits on for an answer."""
        return self._stdout.fileno()

    def error(self, what: str) -> MeasureError:
        """Return an error that names the side."""
        return MeasureError(f"{self._where}{what}")

    def send(self, line: str) -> None:
        """Let the process do what comes next."""
        with suppress(BrokenPipeError):  # it has ended; the answer that does not come says why
            self._stdin.write(line.encode() + b"\n")

    def answer(self, kind: type[Expected]) -> Expected:
        """Return the next answer, which must be of this kind.

        Raises:
            MeasureError: it failed, ended, said something else, or said nothing whole in the side's time.
        """
        line = self._line()
        try:
            answer = wire.decode(line, kind)
        except MeasureError as error:
            raise self._failed(_quoted(str(error))) from None
        if isinstance(answer, kind):
            return answer
        if isinstance(answer, wire.Failed):
            raise self.error(_quoted(answer.reason))
        assert isinstance(answer, wire.Ended)
        raise self._failed(_ended(answer.exit_code))

    def ready(self) -> None:
        """Wait until it has imported what its runs need."""
        ready = self.answer(wire.Ready)
        if ready.protocol < wire.VERSION:
            found = f"speaks version {ready.protocol} of the wire"
            raise self.error(f"{found}, and {wire.VERSION} or later is needed; use a later commit")
        self._can = frozenset(ready.can)

    def request(self, request: wire.Request) -> None:
        """Ask for something; the answers are to be waited for."""
        if request.do not in self._can:
            raise self.error(f"cannot be asked to {request.do}; use a commit whose sides can")
        self.send(msgspec.json.encode(request).decode())

    def waiting(self) -> wire.Waiting:
        """Return the run that was asked for, when it has been built and warmed up."""
        waiting = self.answer(wire.Waiting)
        with suppress(OSError):  # it has ended, or this system has no process groups
            if os.getpgid(waiting.pid) != self.pid:
                raise self.error(f"said 'waiting' with pid = {waiting.pid}, which is none of its processes")
        return waiting

    def tell(self, num_steps: int) -> None:
        """Let the run make so many steps; `stepped` waits for them."""
        self.send(f"{num_steps}")

    def stepped(self) -> wire.Stepped:
        """Return the slice that the run was told to make."""
        return self.answer(wire.Stepped)

    def end_run(self) -> None:
        """End the run."""
        self.tell(0)
        self.answer(wire.Ended)

    def only_answer(self, kind: type[Expected]) -> Expected:
        """Return what was asked for, when the process of that request has ended."""
        answer = self.answer(kind)
        self.answer(wire.Ended)
        return answer

    def _line(self) -> bytes:
        """Return the next line; the time is that of the whole line, however slowly it comes."""
        timeout_s = max(self._least_timeout_s, ANSWER_TIMEOUT_S)
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            if len(self._unread) > ANSWER_BYTES:
                raise self._failed(f"said {len(self._unread):,} bytes without an end of line, no answer")
            if time.monotonic() > deadline_s:
                raise self._failed(f"no answer within {timeout_s:.0f} s")
            if os.fstat(self._stderr.fileno()).st_size > MOST_STDERR_BYTES:
                os.lseek(self._stderr.fileno(), 0, os.SEEK_SET)  # where the process goes on to write
                os.ftruncate(self._stderr.fileno(), 0)
            if not select.select([self], [], [], max(0.0, min(1.0, deadline_s - time.monotonic())))[0]:
                continue
            some = self._stdout.read(2**16)
            if not some:
                raise self._failed(self._how_it_ended())
            self._unread += some
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _how_it_ended(self) -> str:
        try:
            ended = _ended(self._process.wait(END_TIMEOUT_S))
        except subprocess.TimeoutExpired:
            ended = "closed its output and did not end"
        return f"{ended}, after {self._unread[:80]!r} without an end of line" if self._unread else ended

    def _failed(self, what: str) -> MeasureError:
        """Return an error that ends with the last lines that the process wrote."""
        file = self._stderr.fileno()
        # Reading moves no position: the process writes at it.
        end = os.pread(file, STDERR_BYTES, max(0, os.fstat(file).st_size - STDERR_BYTES))
        lines = end.decode(errors="replace").strip().splitlines()[-3:]
        return self.error(f"{what}; its last lines: {_quoted(' | '.join(lines))}" if lines else what)


def run_command(side: Side, case: CaseSpec, num_steps: int) -> wire.Stepped:
    """Run a command once, in a process and a folder of its own, of which nothing is left. Errors as in `Runner`."""
    with ExitStack() as stack:
        with hold_signals():
            folder = TemporaryDirectory(prefix="stepmark-run-", ignore_cleanup_errors=True)  # goes when it is dropped
            stack.callback(_remove, folder)
        runner = Runner(stack, side)
        runner.ready()
        runner.request(wire.Request(do="run", case=case, run_dir=folder.name))
        runner.waiting()
        runner.tell(num_steps)
        return runner.stepped()


def _remove(folder: TemporaryDirectory[str]) -> None:
    with hold_signals():
        folder.cleanup()


def asked_once(side: Side, case: CaseSpec) -> wire.Counted:
    """Return what a side says of itself, in a process of its own. Errors as in `Runner`."""
    with ExitStack() as stack:
        runner = Runner(stack, side)
        runner.ready()
        runner.request(wire.Request(do="count", case=case))
        return runner.only_answer(wire.Counted)


def _end(process: subprocess.Popen[bytes], stderr: IO[bytes], mark: str, grace_s: float) -> list[int]:
    """Kill a process and all that it has started; return which are still there after `END_TIMEOUT_S`.

    With `grace_s`, what it has started is asked to end before that: a launcher ends its tasks on other machines.
    """
    if grace_s:
        asked_s = time.monotonic()
        for pid in _marked(mark) - {process.pid}:
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM)
        while _marked(mark) - {process.pid} and time.monotonic() < asked_s + grace_s:
            time.sleep(0.01)
    deadline_s = time.monotonic() + END_TIMEOUT_S
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, of a group that has ended
        os.killpg(process.pid, signal.SIGKILL)
    for file in (process.stdin, process.stdout, stderr):
        assert file is not None
        file.close()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return [process.pid]
    while left := _marked(mark):
        if time.monotonic() > deadline_s:
            return sorted(left)
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    return []


def _marked(mark: str) -> set[int]:
    """Return the processes with this `MARK` in their environment: it is empty where they have ended."""
    # None: it is another user's
    return {one.pid for one in psutil.process_iter(["environ"]) if (one.info["environ"] or {}).get(MARK) == mark}


def _quoted(text: str) -> str:
    """Return a process's own words as one line of printable characters, not too many."""
    return printable(" ".join(text[:2000].split())[:1000])


def _ended(exit_code: int | None) -> str:
    names = {-number: number.name for number in signal.Signals}
    return f"ended by {names[exit_code]}" if exit_code in names else _quoted(f"ended with exit code {exit_code}")
