"""A process and whatever it starts: bounded while it runs, gone when the block ends, also after an interrupt."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perf import signals
from perf.errors import MeasureError
from perf.measure import runners
from perf.measure.runners import Runner
from perf.measure.sides import Side
from perf.records.wire import Answer
from perf.signals import STOPS, stopped_by_signals

LINUX = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes in /proc")

IGNORES_ITS_INPUT = ["sleep", "1000"]


class Said(Answer, tag="ready"):
    """An answer of a test's process."""

    pid: int = 0


def side(command: Sequence[str]) -> Side:
    """Return a side that no error names, whose runner is any command."""
    return Side(name="", text="", workload="net", command=tuple(command), root=Path(), environ=os.environ)


@contextmanager
def running(*command: str) -> Iterator[Runner]:
    """Run a command, and end it."""
    with ExitStack() as stack:
        yield Runner(stack, side(command))


def python(code: str) -> AbstractContextManager[Runner]:
    """Run a few lines of Python."""
    return running(sys.executable, "-c", f"import os, signal, sys\n{code}")


def alive(pid: int) -> bool:
    """Return whether a process has any memory; one that ends, or that nobody has waited for yet, has none."""
    try:
        return Path(f"/proc/{pid}/statm").read_text().split()[0] != "0"
    except OSError:
        return False


@LINUX
@pytest.mark.parametrize("leave", ["pass", "os.setsid(); pid = os.fork()\n    if pid: os._exit(0)"])
def test_what_a_process_has_forked_ends_with_it(leave: str) -> None:
    """When none of them listens to anything, and also a daemon: in a session of its own, its parent gone."""
    code = f"""
if os.fork() == 0:
    {leave}
    print(f'{{{{"event": "ready", "pid": {{os.getpid()}}}}}}', flush=True)
signal.pause()
"""
    with python(code) as process:
        forked = process.answer(Said).pid
        assert alive(forked)
    assert not alive(forked)


@contextmanager
def interrupted_inside_popen(
    number: signal.Signals, when: Callable[[Sequence[str]], bool] = lambda command: True
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Let a signal come when a child has been started and nobody has an object for it; yield such children.

    Args:
        number: the signal.
        when: given a command, whether the signal comes there; the child then ignores its input, whatever it was to do.
    """
    made: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, command: Sequence[str], **options: Any) -> None:
            if not when(command):
                super().__init__(command, **options)
                return
            super().__init__(IGNORES_ITS_INPUT, **options)
            made.append(self)
            signal.raise_signal(number)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subprocess, "Popen", Interrupted)
            yield made
    finally:
        for process in made:
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", STOPS)
def test_an_interrupt_inside_popen_leaves_no_child(number: signal.Signals) -> None:
    """The child ignores its input, so nothing but the stack ends it."""

    def start() -> None:
        with stopped_by_signals(), ExitStack() as stack:
            Runner(stack, side(IGNORES_ITS_INPUT))
            pytest.fail("the signal was lost")

    with interrupted_inside_popen(number) as made:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert [process.returncode for process in made] == [-signal.SIGKILL]


class Child:
    """In the place of a child that goes on until its group is killed."""

    made: ClassVar[list[Child]] = []

    def __init__(self, *arguments: object, **options: object) -> None:
        self.stdin, self.stdout = (os.fdopen(os.open(os.devnull, os.O_RDWR), "r+b", 0) for _ in range(2))
        self.killed = self.ended = False
        self.pid = len(self.made)
        self.made.append(self)

    def wait(self, timeout: float) -> int:
        """Be waited for."""
        assert self.killed
        self.ended = True
        return -signal.SIGKILL


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """Children that take no time."""
    monkeypatch.setattr(Child, "made", [])
    monkeypatch.setattr(subprocess, "Popen", Child)
    monkeypatch.setattr(os, "killpg", lambda pid, number: setattr(Child.made[pid], "killed", True))
    monkeypatch.setattr(runners, "_marked", lambda mark: [])
    return Child.made


def interrupted_at(line: int, action: Callable[[], None]) -> tuple[bool, bool]:
    """Run an action with SIGINT at one of its lines, ours and contextlib's.

    Returns:
        Whether there was such a line, and whether the action ended with KeyboardInterrupt.
    """
    files = (runners.__file__, signals.__file__, contextlib.__file__)
    left = itertools.count(line, -1)

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line" and next(left) == 0:
            signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    stopped = False
    try:
        action()
    except KeyboardInterrupt:
        stopped = True
    finally:
        sys.settrace(before)
    return next(left) < 0, stopped


def assert_gone(action: Callable[[], None], children: list[Child]) -> None:
    """Run an action once for each of its lines, interrupted there: the interrupt is not lost, and no child is left."""
    for line in itertools.count():
        came, stopped = interrupted_at(line, action)
        if not came:
            assert line > 100, "the lines were not seen"
            return
        assert stopped
        assert all(child.ended for child in children)
        children.clear()


def test_an_interrupt_anywhere_between_start_and_end_leaves_no_child(children: list[Child]) -> None:
    """At every line of starting two processes and ending them."""

    def start_and_end() -> None:
        with ExitStack() as stack:
            for _ in range(2):
                Runner(stack, side([]))

    assert_gone(start_and_end, children)


def test_a_second_interrupt_while_cleaning_up_leaves_no_child(children: list[Child]) -> None:
    """At every line of what follows the first one."""

    def stop() -> None:
        with stopped_by_signals(), ExitStack() as stack:
            trace = sys.gettrace()
            sys.settrace(None)
            for _ in range(2):
                Runner(stack, side([]))
            sys.settrace(trace)
            signal.raise_signal(signal.SIGTERM)

    assert_gone(stop, children)


def test_what_nobody_ended_ends_when_it_is_dropped(children: list[Child]) -> None:
    """The last resort: an interrupt between a stack's callbacks skips the rest of them."""
    stack = ExitStack()
    Runner(stack, side([]))
    del stack
    gc.collect()
    assert [child.ended for child in children] == [True]


def test_an_answer_without_an_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not fill the memory."""
    monkeypatch.setattr(runners, "ANSWER_BYTES", 2**18)
    with (
        running("head", "-c", "4000000", "/dev/zero") as process,
        pytest.raises(MeasureError, match=r"^said \d+,\d+ bytes without an end of line, no answer$"),
    ):
        process.answer(Said)
    assert len(process._unread) < 2**19


def test_answers_without_an_end_wait_in_the_pipe() -> None:
    """However many a process gives, no more than a pipe's content is kept beyond the one that was asked for."""
    with running("yes", '{"event": "ready"}') as process:
        for _ in range(1000):
            process.answer(Said)
            assert len(process._unread) <= 2 * 2**16


def test_an_answer_that_drips_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """There always is something more to read, and each time a second has passed."""
    seconds = itertools.count()
    with running("cat", "/dev/zero") as process:
        monkeypatch.setattr(runners, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
        monkeypatch.setattr(runners, "ANSWER_TIMEOUT_S", 9.0)
        with pytest.raises(MeasureError, match=r"^no answer within 9 s$"):
            process.answer(Said)
        monkeypatch.undo()
        assert 0 < len(process._unread) <= 9 * 2**16


def test_of_what_a_process_writes_to_stderr_the_end_is_told() -> None:
    """However much it is, the process need not wait for a reader, and the error ends with its last lines."""
    code = """
for i in range(100_000): print("line", i, file=sys.stderr)
print("\\x1b[2Jthe", "end" * 10_000, file=sys.stderr, flush=True)
print("no answer", flush=True)
signal.pause()
"""
    with python(code) as process, pytest.raises(MeasureError) as error:
        process.answer(Said)
    text = str(error.value)
    assert text.startswith("said b'no answer', which is no answer: JSON is malformed")
    assert "; its last lines: line 99998 | line 99999 | " in text
    assert text.endswith("end")
    assert len(text) < 2000
    assert text.isprintable()


def test_what_a_process_writes_to_stderr_fills_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is emptied while an answer is waited for, and has what comes then."""
    monkeypatch.setattr(runners, "MOST_STDERR_BYTES", 2**20)
    code = """
print("much" * 2**19, file=sys.stderr, flush=True)
print("x", end="", flush=True)
print(sys.stdin.readline(), "the end", file=sys.stderr, flush=True)
print(flush=True)
signal.pause()
"""
    empty = os.ftruncate
    with python(code) as process:

        def emptied(file: int, size: int) -> None:
            assert os.fstat(file).st_size == 2**21 + 1
            empty(file, size)
            process.send("go on")

        monkeypatch.setattr(os, "ftruncate", emptied)
        with pytest.raises(
            MeasureError, match=r"^said b'x', which is no answer: .*; its last lines: go on \| the end$"
        ):
            process.answer(Said)


def test_a_process_that_closes_its_output_and_stays_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer can come any more."""
    with python("os.close(1); signal.pause()") as process:
        monkeypatch.setattr(runners, "END_TIMEOUT_S", 0.0)
        with pytest.raises(MeasureError, match=r"^closed its output and did not end$"):
            process.answer(Said)
        monkeypatch.undo()


Says = Callable[[bytes], AbstractContextManager[Runner]]

VALID = b'{"event": "ready", "number": 1, "list": [1.5, null]}\n'

DIGITS = b"1" * 10**6


@pytest.fixture
def says(tmp_path: Path) -> Says:
    """Return a function that runs a process, which says what a test wants and ends."""

    def says(output: bytes) -> AbstractContextManager[Runner]:
        (tmp_path / "output").write_bytes(output)
        return running("cat", str(tmp_path / "output"))

    return says


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (b"\n", "said b'', which is no answer"),
        (b"\0" * 9 + b"\n", "which is no answer"),
        (b"\xff\xfe\n", "which is no answer"),
        (VALID.decode().encode("utf-16") + b"\n", "which is no answer"),
        (b"[" * 10**6 + b"\n", "Expected `object`, got `array`"),
        (b'{"event":' * 10**5 + b"\n", "which is no answer"),
        (b'{"event": "ready", "pid": ' + DIGITS + b"}\n", "said "),
        (b'{"event": "ready", "pid": ' + DIGITS + b".0}\n", "said "),
        (b'{"event": "ready", "pid": 1e999}\n', "out of range"),
        (b'{"event": "ready", "number": NaN}\n', "which is no answer"),
        (b'{"event": "ready", "number": -Infinity}\n', "which is no answer"),
        (b'"event"\n', "Expected `object`, got `str`"),
        (b'{"event": ["ready"]}\n', "Expected `str`"),
        (b'{"event": "failed", "reason": {}}\n', "got `object` - at `$.reason`"),
        (b'{"event": "failed", "reason": "a\\nb \\u001b"}\n', "a b \\x1b"),
        (b'{"event": "failed", "reason": "\\ud800"}\n', "which is no answer"),
        (b'{"event": "' + b"x" * 10**6 + b'"}\n', "Invalid value 'xxx"),
        (b'{"event": "ended", "exit_code": [1]}\n', "got `array` - at `$.exit_code`"),
        (b'{"event": "ended", "exit_code": 1.5}\n', "got `float` - at `$.exit_code`"),
        (b'{"event": "ended", "exit_code": ' + b"1" * 4000 + b"}\n", "ended with exit code 1111"),
        (b'{"event": "ready", "pid": "x"}\n', "Expected `int`, got `str` - at `$.pid`"),
        (VALID[:-1], "ended with exit code 0, after b'{\"event\": \"ready\""),
        (b"", "ended with exit code 0"),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else "",
)  # fmt: skip
def test_what_is_no_answer_is_one_short_line(says: Says, output: bytes, problem: str) -> None:
    """Whatever a process says: an error that quotes it, in printable characters."""
    with says(output) as process, pytest.raises(MeasureError) as error:
        process.answer(Said)
    assert problem in str(error.value)
    assert len(str(error.value)) < 1500
    assert str(error.value).isprintable()


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=3), st.integers(0, len(VALID)), st.integers(0, 3))
def test_a_mutated_answer_is_read_or_refused(says: Says, inserted: bytes, at: int, removed: int) -> None:
    """Nothing but an answer or a MeasureError comes of it."""
    with says(VALID[:at] + inserted + VALID[at + removed :]) as process, suppress(MeasureError):
        assert process.answer(Said)
