"""A process and whatever it starts: bounded while it runs, gone when the block ends, also after an interrupt anywhere."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perf import signals
from perf.errors import MeasureError
from perf.measure import processes
from perf.measure.processes import STDERR_BYTES, Process, started
from perf.signals import STOPS, stopped_by_signals

LINUX = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes in /proc")

IGNORES_ITS_INPUT = ["sleep", "1000"]


def python(code: str) -> Process:
    """Return a process that runs a few lines of Python."""
    return Process([sys.executable, "-c", f"import os, signal, sys\n{code}"], environ=os.environ)


def alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@LINUX
@pytest.mark.parametrize("leave", ["pass", "os.setsid(); pid = os.fork()\n    if pid: os._exit(0)"])
def test_what_a_process_has_forked_ends_with_it(leave: str) -> None:
    """When none of them listens to anything, and also a daemon: in a session of its own, its parent gone."""
    code = f"""
if os.fork() == 0:
    {leave}
    print(f'{{{{"event": "forked", "pid": {{os.getpid()}}}}}}', flush=True)
signal.pause()
"""
    with python(code) as process:
        forked = process.answer("forked", timeout_s=60.0)["pid"]
        assert alive(forked)
    assert not alive(forked)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """All processes that a test starts, one by one and without daemons."""
    monkeypatch.setattr(processes, "_marked", lambda mark: [])
    made: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    yield made
    for process in made:
        process.kill()
        process.wait()


@contextmanager
def interrupted_inside_popen(number: signal.Signals) -> Iterator[None]:
    """Let a signal come when the child has been started and nobody has an object for it."""
    real = subprocess.Popen

    class Interrupted(real):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", Interrupted)
        yield


@pytest.mark.parametrize("number", STOPS)
def test_an_interrupt_inside_popen_leaves_no_child(number: signal.Signals, made: list[subprocess.Popen[bytes]]) -> None:
    """The child ignores its input, so nothing but the stack ends it."""
    with pytest.raises(KeyboardInterrupt), stopped_by_signals(), ExitStack() as stack:
        with interrupted_inside_popen(number):
            started(stack, IGNORES_ITS_INPUT, environ={})
        pytest.fail("the signal was lost")
    assert len(made) == 1
    assert made[0].returncode == -signal.SIGKILL


def interrupted_at(line: int, action: Callable[[], None]) -> tuple[bool, bool]:
    """Run an action with SIGINT at one of its lines, ours and contextlib's.

    Returns:
        Whether there was such a line, and whether the action ended with KeyboardInterrupt.
    """
    files = (processes.__file__, signals.__file__, contextlib.__file__)
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


def everywhere(action: Callable[[], None]) -> Iterator[bool]:
    """Run an action once for each of its lines, interrupted there; yield whether it ended with KeyboardInterrupt."""
    for line in itertools.count():
        came, stopped = interrupted_at(line, action)
        if not came:
            assert line > 50, "the lines were not seen"
            return
        yield stopped


def gone_everywhere(action: Callable[[], None], made: list[subprocess.Popen[bytes]]) -> None:
    """Assert of an interrupt at each line that it is not lost, and that no process outlives the action."""
    for stopped in everywhere(action):
        assert stopped
        assert all(process.returncode == -signal.SIGKILL for process in made)
        made.clear()


def test_an_interrupt_anywhere_between_start_and_end_leaves_no_child(made: list[subprocess.Popen[bytes]]) -> None:
    """At every line of starting two processes and ending them: both are gone, and the interrupt is not lost."""

    def start_and_end() -> None:
        with ExitStack() as stack:
            for _ in range(2):
                started(stack, IGNORES_ITS_INPUT, environ={})

    gone_everywhere(start_and_end, made)


def test_a_second_interrupt_while_cleaning_up_leaves_no_child(made: list[subprocess.Popen[bytes]]) -> None:
    """At every line of what follows the first one."""

    def stop() -> None:
        with stopped_by_signals(), ExitStack() as stack:
            trace = sys.gettrace()
            sys.settrace(None)
            for _ in range(2):
                started(stack, IGNORES_ITS_INPUT, environ={})
            sys.settrace(trace)
            signal.raise_signal(signal.SIGTERM)

    gone_everywhere(stop, made)
