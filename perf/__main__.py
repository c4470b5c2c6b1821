"""``python -m perf``: the command line, and how its process ends."""

# signals are handled before torch is imported

import os
import sys
from contextlib import suppress
from typing import NoReturn

from perf.signals import exit_on_signals

with exit_on_signals():  # the import takes seconds, and an interrupt in it would be a traceback from anywhere
    from perf.cli import main


def run() -> NoReturn:
    """Run the command line and end the process; a rank among others without shutting down the interpreter.

    A thread of torch's may still be releasing what the last collective used. If it meets an interpreter that shuts
    down, it aborts the process: "terminate called without an active exception" (torch 2.13, gloo, 2 of 15 runs on busy
    cores).
    """
    code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # whoever read it may be gone
                stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
