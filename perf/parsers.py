"""What the command line takes: arguments and their help."""

from __future__ import annotations

import argparse
from pathlib import Path

from perf import __version__
from perf.arguments import fraction, not_negative, positive, seconds
from perf.project import tool
from perf.seam import DEVICES, PRECISIONS

SPECS = """each SPEC is one or more of:
  self                  the working tree, as it is
  git:REF               a checkout of that commit
  pip:NAME==VERSION,... these packages before what is installed (kept in ~/.cache/stepmark)
  python:/path          another interpreter, which has what is needed
  env:NAME=VALUE,...    environment variables
  baseline:             the promoted baseline's commit, torch and numpy
such as: --baseline git:HEAD~1 --candidate self env:MALLOC_ARENA_MAX=1"""

WORKLOAD = (
    "a built-in name, FILE.py:NAME or MODULE:NAME (default: all in the project's bench_*.py; without any, pico on a "
    "CPU, bert-large-msl128 on a GPU)"
)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=tool(),
        allow_abbrev=False,
        description="Train reference workloads, read training logs, compare two versions side by side, and "
        "promote what "
        "pytest measured to a baseline.",
        epilog="Exit codes: 0 done, 1 something is slower or learns otherwise (duet), 2 wrong usage, 3 a "
        "problem with data "
        "or state, 4 could not be decided (duet), 5 damaged lines (import-log), 6 rates that "
        "disagree (import-log), 130 "
        "stopped by a signal.",
    )
    parser.add_argument("--version", action="version", version=f"stepmark {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_first(commands)
    _add_train(commands)
    _add_workloads(commands)
    _add_import_log(commands)
    _add_promote(commands)
    _add_duet(commands)
    _add_calibrate(commands)
    return parser


def _add_first(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    init = commands.add_parser(
        "init",
        help="write a template of a training step, and check it",
        description="Write a template of a training step, unless the file is there, and check its step: whether it is "
        "repeatable, what it does, and where it waits for the device.",
        allow_abbrev=False,
    )
    init.add_argument(
        "file", type=Path, nargs="?", default=Path("bench_step.py"), metavar="FILE", help="default: bench_step.py"
    )
    for name, about in (
        ("demo", "plant a slowdown and another training in a copy, and find both: about a minute"),
        ("doctor", "say what this machine can show, and what to do about it"),
    ):
        commands.add_parser(name, help=about, description=f"{about.capitalize()}.", allow_abbrev=False)


def _add_workloads(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    workloads = commands.add_parser(
        "workloads",
        help="list what can be measured",
        description="List the built-in workloads and those of this project: id, file, batch sizes, and why.",
        allow_abbrev=False,
    )
    workloads.add_argument(
        "files", type=Path, nargs="*", metavar="FILE", help="Python files (default: bench_*.py at the project's root)"
    )


def _add_import_log(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    import_log = commands.add_parser(
        "import-log",
        help="read training logs and audit their rates",
        description="Find the runs in each log, recompute each Rate from the GlobalRate column, and say where they "
        "disagree by more than rounding and a millisecond between two readings of the clock explain.",
        epilog="Exit codes: 0 no rate disagrees and no line is damaged, 3 a log cannot be read or has no such lines, "
        "5 damaged lines, 6 rates or totals that disagree, 130 stopped by a signal. Of several that apply: 3, then 6, "
        "then 5.",
        allow_abbrev=False,
    )
    import_log.add_argument(
        "files", type=Path, nargs="+", metavar="FILE",
        help="a log with lines like 'Step=100, Loss=..., Rate=...'; - for standard input",
    )  # fmt: skip
    import_log.add_argument("--json", action="store_true", help="print what was found as JSON")


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from perf.train.workloads import WORKLOADS

    names = "\n".join(f"  {name:18} {workload.why}" for name, workload in WORKLOADS.items())
    train = commands.add_parser(
        "train",
        help="train a workload at one or more global batch sizes",
        description="Train a workload at each global batch size, log its rates, keep a checkpoint of each run.",
        epilog=f"workloads:\n{names}\n\nSeveral devices: torchrun --nproc-per-node=N -m perf train ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = train.add_argument_group("what to train")
    what.add_argument("--workload", metavar="W", help="a built-in one; default: pico on CPU, bert-large-msl128 on CUDA")
    what.add_argument(
        "--global-batch-size", type=positive, nargs="+", metavar="B",
        help="samples per optimizer step, over all devices; several make one run each (default: the workload's three)",
    )  # fmt: skip
    what.add_argument(
        "--text", type=Path, nargs="+", metavar="FILE", help="train on these UTF-8 files, not on the synthetic language"
    )
    what.add_argument(
        "--seed", type=not_negative, default=0, metavar="S", help="of weights, data and dropout (default: 0)"
    )
    long = train.add_argument_group("how long").add_mutually_exclusive_group()
    long.add_argument("--max-steps", type=positive, metavar="N", help="stop at this step (default: the workload's)")
    long.add_argument("--num-steps", type=positive, metavar="N", help="make this many more steps, each time")
    long.add_argument(
        "--num-epochs", type=positive, metavar="N", help="make this many more passes over --text, each time"
    )
    state = train.add_argument_group("logs and checkpoints")
    state.add_argument(
        "--log-steps", type=positive, metavar="L", help="a log line every L steps (default: the workload's)"
    )
    state.add_argument(
        "--checkpoint-steps", type=positive, metavar="C", help="a checkpoint every C steps (default: only at the end)"
    )
    state.add_argument(
        "--keep-checkpoints", type=not_negative, default=2, metavar="K",
        help="keep the newest K checkpoints; 0 writes, moves and deletes none (default: 2)",
    )  # fmt: skip
    state.add_argument(
        "--model-dir",
        type=Path,
        metavar="DIR",
        help="where the checkpoints are (default: runs/WORKLOAD/gbs-B; with --text, runs/WORKLOAD-text/gbs-B)",
    )
    start = state.add_mutually_exclusive_group()
    start.add_argument(
        "--fresh", action="store_true", help="start at step 0; the checkpoints there move to DIR/previous-N"
    )
    start.add_argument(
        "--load",
        choices=["weights"],
        help="start at step 0 with the weights of the newest checkpoint there; they all move to DIR/previous-N",
    )
    where = train.add_argument_group("where and how")
    where.add_argument("--device", choices=DEVICES, default="auto", help="default: auto (CUDA where there is one)")
    where.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="default: auto (bf16 where the processor has it)"
    )
    where.add_argument(
        "--micro-batch-size", type=positive, metavar="B", help="samples per forward pass (default: the workload's)"
    )
    where.add_argument("--compile", action="store_true", help="use torch.compile (needs a C++ compiler on CPU)")


def _add_promote(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    promote_ = commands.add_parser(
        "promote",
        help="make a benchmark result the baseline of its machine",
        description="Make a benchmark result the baseline of the machine it was measured on, and of its torch. Nothing "
        "else writes under baselines/. Review the change and commit it.",
        allow_abbrev=False,
    )
    promote_.add_argument(
        "--from", dest="from_", type=Path, metavar="FILE",
        help="what pytest wrote (default: runs/bench.json of the project, the latest session's)",
    )  # fmt: skip
    promote_.add_argument("--reason", default="", metavar="TEXT", help="why, for the log of promotions in the file")


def _add_duet(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    duet = commands.add_parser(
        "duet",
        help="compare two versions side by side",
        description="Train with two versions side by side, in many pairs of fresh runs, until a change as large as\n"
        "the threshold is found or excluded, or the budget is spent; then say where a difference comes from.",
        epilog=f"{SPECS}\n\nExit codes: 0 nothing is slower, 1 REGRESSED or LOSSES_DIFFER, 2 wrong usage, "
        "3 a side cannot be run, "
        "4 INCONCLUSIVE, 130 stopped.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    duet.add_argument(
        "--baseline", nargs="+", metavar="SPEC",
        help="what to compare with (default: git:HEAD; git:HEAD~1 where nothing has changed since)",
    )  # fmt: skip
    duet.add_argument("--candidate", nargs="+", metavar="SPEC", help="what to judge (default: self)")
    duet.add_argument(
        "--threshold", type=fraction, metavar="T", help="smallest change that matters (default: the workload's, or 2%%)"
    )
    _add_common(duet, budget=120)


def _add_calibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    calibrate = commands.add_parser(
        "calibrate",
        help="measure how small a change this machine can show",
        description="Run the working tree against itself, and say how much runs spread here and what budget "
        "finds what.",
        allow_abbrev=False,
    )
    _add_common(calibrate, budget=60)


def _add_common(parser: argparse.ArgumentParser, *, budget: int) -> None:
    parser.add_argument("--workload", metavar="W", help=WORKLOAD)
    parser.add_argument("--global-batch-size", type=positive, nargs="+", metavar="B", help="default: the workload's")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="default: the workload's; of a built-in one fp32 on a CPU, as in the bench, and auto on a GPU",
    )
    parser.add_argument(
        "--budget", type=seconds, default=float(budget), metavar="S",
        help=f"time for each batch size, such as 90s or 5m (default: {budget}s)",
    )  # fmt: skip
    parser.add_argument(
        "--mode", choices=("simultaneous", "alternating"), metavar="M",
        help="simultaneous (half the cores each) or alternating (default: what suits the machine)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all raw values in this file")
