"""What INT, TERM and HUP do, where an exception between any two instructions would leave something behind."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

EXIT_STOPPED = 130  # exit code of a command that a signal stopped


@contextmanager
def hold_signals() -> Iterator[None]:
    """Hold INT, TERM and HUP back: what comes inside the block is delivered when the block has ended.

    The handlers are swapped, and no signal is masked: a child would inherit the mask.
    """
    came: list[int] = []
    try:
        with _handled_by(came.append):
            yield
    finally:
        for number in came:
            signal.raise_signal(number)


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Turn the first INT, TERM or HUP into a request to stop; the next of its kind acts as usual."""
    stop = threading.Event()
    with _handled_by(lambda number: stop.set(), once=True):
        yield stop


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let the first INT, TERM or HUP raise KeyboardInterrupt; later ones do nothing, so that all is cleaned up."""
    stopping = False

    def stop(number: int) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            raise KeyboardInterrupt

    with _handled_by(stop):
        yield


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Let INT, TERM and HUP end this process at once, with one line; for where there is nothing to clean up."""

    def leave(number: int) -> NoReturn:
        with suppress(OSError):  # the terminal may be gone
            os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
        os._exit(EXIT_STOPPED)

    with _handled_by(leave):
        yield


@contextmanager
def _handled_by(handle: Callable[[int], None], *, once: bool = False) -> Iterator[None]:
    """Let `handle` take INT, TERM and HUP; one that is ignored (``nohup``) stays so.

    Signals reach the main thread only. With `once`, each acts as usual after it came.
    """
    stops = STOPS if threading.current_thread() is threading.main_thread() else ()
    usual = {number: signal.getsignal(number) for number in stops}
    usual = {number: handler for number, handler in usual.items() if handler not in (signal.SIG_IGN, None)}
    over = False

    def handler(number: int, frame: FrameType | None) -> None:
        if once or over:
            signal.signal(number, usual[signal.Signals(number)])
        if over:  # a handler that was restored before this one has raised
            signal.raise_signal(number)
        else:
            handle(number)

    try:
        for number in usual:
            signal.signal(number, handler)
        yield
    finally:
        try:
            for number, before in reversed(usual.items()):  # that of INT raises, so it is the last
                signal.signal(number, before)
        finally:
            over = True
