"""The command line: ``stepmark``, or ``python -m perf``. What a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from perf.errors import BaselineError, MainRankError, NothingToDoError, PerfError, UsageError
from perf.parsers import make_parser
from perf.printable import printable
from perf.project import find_root, shown
from perf.signals import EXIT_STOPPED, exit_on_signals

EXIT_DONE, EXIT_USAGE, EXIT_PROBLEM = 0, 2, 3
MOST_REASON = 1000
"""Characters of the reason for a promotion; files that have more are refused when they are read."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 wrong usage, 3 a problem with data or state, 130 stopped.

    Other codes are a command's own; its help lists them.
    """
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A log is read while it grows, and a name that a terminal cannot show must not end a run.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        return COMMANDS[arguments.command](arguments)
    except MainRankError:
        return EXIT_PROBLEM
    except UsageError as error:
        code, lines = EXIT_USAGE, [str(error)]
    except NothingToDoError as error:
        # Not 0: whoever asked for a run has none, and a job that trains nothing must not pass.
        code, lines = EXIT_PROBLEM, str(error).splitlines()
    except (PerfError, OSError) as error:
        code, lines = EXIT_PROBLEM, [str(error)]
    except (MemoryError, RuntimeError) as error:
        known = _known_trouble(error)
        if known is None:
            raise
        code, lines = EXIT_PROBLEM, [known]
    except KeyboardInterrupt:
        return EXIT_STOPPED
    with suppress(OSError):  # the terminal may be gone
        text = "\n".join(printable(" ".join(line.split())) for line in lines)
        print(f"{parser.prog} {arguments.command}: error: {text}", file=sys.stderr)
    return code


def _known_trouble(error: BaseException) -> str | None:
    """Return in one line what a user can do something about, or None for a defect of this project."""
    # On a CPU, torch tells that memory is out only in words.
    is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if is_memory or "can't allocate memory" in str(error):
        return f"out of memory ({error}); use a smaller --micro-batch-size"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return f"--compile: torch could not compile the model ({reason}); mend its C++ compiler, or leave --compile out"
    return None


def _import(*modules: str) -> None:
    """Import what takes seconds.

    There is nothing to clean up yet, so a signal ends the process at once, in one line.
    """
    with exit_on_signals():
        for module in modules:
            importlib.import_module(module)


def _train(arguments: argparse.Namespace) -> int:
    _import("perf.train.loop", "perf.report.training")
    from perf.app.train import train

    finished = train(
        workload=arguments.workload,
        global_batch_sizes=arguments.global_batch_size,
        text=arguments.text,
        seed=arguments.seed,
        max_steps=arguments.max_steps,
        num_steps=arguments.num_steps,
        num_epochs=arguments.num_epochs,
        log_steps=arguments.log_steps,
        checkpoint_steps=arguments.checkpoint_steps,
        keep_checkpoints=arguments.keep_checkpoints,
        model_dir=arguments.model_dir,
        start="fresh" if arguments.fresh else (arguments.load or "resume"),
        device=arguments.device,
        precision=arguments.precision,
        micro_batch_size=arguments.micro_batch_size,
        compile_model=arguments.compile,
    )
    return EXIT_DONE if finished else EXIT_STOPPED


def _import_log(arguments: argparse.Namespace) -> int:
    from perf.app.import_log import import_log

    return import_log(arguments.files, as_json=arguments.json)


def _promote(arguments: argparse.Namespace) -> int:
    from perf.app.promotion import promote
    from perf.records.baselines import BASELINES_DIR, LATEST_RESULT, load_result
    from perf.report.bench import promotion_note

    root = shown(find_root())
    result = arguments.from_ or root / LATEST_RESULT
    if len(arguments.reason) > MOST_REASON:
        raise UsageError(f"--reason: has {len(arguments.reason):,} characters, and at most {MOST_REASON:,} are kept")
    if not result.exists():
        raise BaselineError(f"{result}: is not there; measure first with pytest, or name a result: --from")
    date = datetime.now(UTC).isoformat(timespec="seconds")
    written = promote(result, root / BASELINES_DIR, reason=arguments.reason, date=date)
    print(promotion_note(load_result(result), written))
    return EXIT_DONE


def _duet(arguments: argparse.Namespace) -> int:
    _import("perf.train.devices", "perf.app.duet", "perf.report.duet")
    from perf.app.side_by_side import duet, what

    return duet(
        what(**_what(arguments)),
        baseline=arguments.baseline,
        candidate=arguments.candidate,
        threshold=arguments.threshold,
        json=arguments.json,
    )


def _calibrate(arguments: argparse.Namespace) -> int:
    _import("perf.train.devices", "perf.app.duet", "perf.report.duet")
    from perf.app.calibrate import calibrate
    from perf.app.side_by_side import what

    return calibrate(what(**_what(arguments)), json=arguments.json)


def _what(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "workload": arguments.workload,
        "global_batch_sizes": arguments.global_batch_size,
        "precision": arguments.precision,
        "budget_s": arguments.budget,
        "mode": arguments.mode,
    }


def _workloads(arguments: argparse.Namespace) -> int:
    from perf.finding import list_workloads

    targets, problems = list_workloads(arguments.files)
    for target in targets:
        sizes = ", ".join(map(str, target.workload.global_batch_sizes))
        print(
            printable(f"{target.id} ({shown(target.origin) if ':' in target.id else 'built in'}), batch sizes {sizes}")
        )
        if target.workload.why:
            print(printable(f"    {target.workload.why}"))
    if problems:
        raise BaselineError("; ".join(problems))
    return EXIT_DONE


COMMANDS = {
    "train": _train,
    "workloads": _workloads,
    "import-log": _import_log,
    "promote": _promote,
    "duet": _duet,
    "calibrate": _calibrate,
}
