"""The command line: ``stepmark``, or ``python -m perf``. What a command needs is imported when it runs."""

import io
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from perf.errors import EXIT_PROBLEM, MainRankError, PerfError, UsageError
from perf.parsers import make_parser
from perf.printable import printable, wrapped
from perf.signals import EXIT_STOPPED, exit_on_signals

EXIT_DONE, EXIT_USAGE = 0, 2


def run(work: Callable[[], int] | None = None) -> NoReturn:
    """Run the command line, or `work`, and end the process; a rank among others without shutting down the interpreter.

    A thread of torch's may still be releasing what the last collective used. If it meets an interpreter that shuts
    down, it aborts the process: "terminate called without an active exception" (torch 2.13, gloo, 2 of 15 runs on busy
    cores).
    """
    code = work() if work else main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        with suppress(OSError):  # whoever read it may be gone; stderr keeps no whole line back
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 wrong usage, 3 a problem with data or state, 130 stopped.

    Other codes are a command's own; the help lists them.
    """
    parser = make_parser()
    arguments = vars(parser.parse_args(argv))
    command, function = arguments.pop("command"), arguments.pop("run")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A log is read while it grows, and a name that a terminal cannot show must not end a run.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        with exit_on_signals():  # nothing is to be cleaned up while it imports what takes seconds
            function = pkgutil.resolve_name(function)
        return int(function(**arguments))
    except MainRankError:
        return EXIT_PROBLEM
    except (UsageError, PerfError, OSError) as error:
        # Also where there is nothing to do: whoever asked for a run has none, and a job that trains nothing must fail.
        code, message = EXIT_USAGE if isinstance(error, UsageError) else EXIT_PROBLEM, str(error)
    except (MemoryError, RuntimeError) as error:
        code, message = EXIT_PROBLEM, _known_trouble(error)
        if not message:
            raise
    except KeyboardInterrupt:
        return EXIT_STOPPED
    with suppress(OSError):  # the terminal may be gone
        line = printable(" ".join(f"{parser.prog} {command}: error: {message}".split()))
        print(wrapped(line) if sys.stderr.isatty() else line, file=sys.stderr)
    return code


def _known_trouble(error: BaseException) -> str:
    """Return in one line what a user can do something about, or nothing for a defect of this project."""
    # On a CPU, torch tells that memory is out only in words.
    is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if is_memory or "can't allocate memory" in str(error):
        return f"out of memory ({error}); use a smaller --micro-batch-size"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return f"--compile: torch could not compile the model ({reason}); mend its C++ compiler, or leave --compile out"
    return ""
