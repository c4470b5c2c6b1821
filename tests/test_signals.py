"""INT, TERM and HUP: held where an exception would leave something behind, delivered afterwards, never lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from perf.signals import EXIT_STOPPED, STOPS, hold_signals, stopped_by_signals

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def came() -> Iterator[list[int]]:
    """What a program's own handlers have been called with; INT keeps Python's handler."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in STOPS}
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: came.append(number))
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> list[object]:
    """Return what INT, TERM and HUP do now."""
    return [signal.getsignal(number) for number in STOPS]


def test_a_held_signal_comes_when_the_outer_block_has_ended(came: list[int]) -> None:
    """Nothing is interrupted inside either block.

    Afterwards each handler is called in order, and the handlers are restored.
    """
    before, done = handlers(), []

    def hold() -> None:
        with hold_signals():
            with hold_signals():
                for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                    signal.raise_signal(number)
                done.append("inner")
            assert not came
            done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        hold()
    assert done == ["inner", "outer"]
    assert came == [signal.SIGHUP, signal.SIGTERM]
    assert handlers() == before


def test_a_held_signal_comes_after_an_error_too() -> None:
    """The error of the block is its context."""

    def hold() -> None:
        with hold_signals():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("of the block")

    with pytest.raises(KeyboardInterrupt) as stop:
        hold()
    assert isinstance(stop.value.__context__, ValueError)


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program of a few lines that holds signals."""
    program = f"import os, signal\nfrom perf.signals import *\n{code}"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_held_signal_that_ends_a_program_ends_it_after_the_block(number: signal.Signals) -> None:
    """Where nobody handles it, it does what it does by default, with the exit status that says so."""
    held = run(
        f"with hold_signals():\n  signal.raise_signal({int(number)})\n  print('held', flush=True)\nprint('still here')"
    )
    assert (held.returncode, held.stdout) == (-number, "held\n")


def test_an_ignored_signal_stays_ignored() -> None:
    """What `nohup` ignores, also for the children, is not taken over."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals(), hold_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_leave_signals_alone() -> None:
    """Only the main thread can set handlers, and only it is interrupted."""
    before, seen = handlers(), []

    def hold() -> None:
        with hold_signals(), stopped_by_signals():
            seen.append(handlers())

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("number", STOPS)
def test_the_first_signal_stops_and_later_ones_do_not_disturb_the_cleaning_up(number: signal.Signals) -> None:
    """Whichever of them it is; afterwards the usual handlers are back."""
    before, done = handlers(), []

    def cleaned() -> None:
        try:
            signal.raise_signal(number)
            done.append("went on")
        finally:
            for later in STOPS:
                signal.raise_signal(later)
            done.append("cleaned")

    with pytest.raises(KeyboardInterrupt), stopped_by_signals():
        cleaned()
    assert done == ["cleaned"]
    assert handlers() == before


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_while_torch_is_imported_is_one_line(tmp_path: Path, number: signal.Signals) -> None:
    """The command ends at once, with the exit code of all that is stopped."""
    (tmp_path / "torch.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    found = subprocess.run([sys.executable, "-m", "perf", "train"], env=environ, capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (EXIT_STOPPED, "", f"stopped by {number.name}\n")
