"""What the command line and the settings of pytest take: values, arguments and their help."""

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from perf import __version__
from perf.printable import tool, wrapped
from perf.seam import DEVICES, PRECISIONS


def _integer(text: str, *, least: int) -> int:
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
    return int(text)


positive = partial(_integer, least=1)
not_negative = partial(_integer, least=0)


def steps(text: str) -> int:
    """Return a number of steps that fill whole slices."""
    value = positive(text)
    if value % 4:  # perf.measure.bench.SLICE_STEPS, whose import takes too long here
        raise argparse.ArgumentTypeError(f"{text!r}: a multiple of 4 is needed, the steps of a slice")
    return value


def fraction(text: str) -> float:
    """Return a fraction between 0 and 1, written as such or in percent."""
    match = re.fullmatch(r"(\d*\.?\d+(?:e-?\d{1,3})?)(%?)", text, re.ASCII)
    value = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no fraction between 0 and 1, such as 2% or 0.02")
    return value


def seconds(text: str) -> float:
    """Return a time of at least 1 s, in seconds or minutes."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([sm]?)", text, re.ASCII)
    value = float(match[1]) * (60 if match[2] == "m" else 1) if match else 0.0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no time of at least 1 s, such as 90s or 5m")
    return value


SPECS = """a side is one or more SPECs:
  self                  the working tree, as it is
  git:REF               a checkout of that commit
  pip:NAME==VERSION,... these packages before the installed ones (cached)
  python:/path          another interpreter, which has what is needed
  env:NAME=VALUE,...    environment variables
  baseline:             the promoted baseline's commit, torch and numpy
such as: --baseline git:HEAD~1 --candidate self env:MALLOC_ARENA_MAX=1"""

WORKLOAD = "a built-in name, FILE.py:NAME, MODULE:NAME or stepmark.toml:NAME"
DEFAULT = "pico on a CPU, bert-large-msl128 on a GPU"
AUTO = "auto: bf16 on a GPU that has it, else fp32"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands.

    What it returns has, besides a command's arguments, `run`: the function that takes them, as ``module:name``.
    """
    parser = argparse.ArgumentParser(
        prog=tool(),
        allow_abbrev=False,
        description="Measure and judge training steps, train reference workloads, and read training logs.",
        epilog="Exit codes: 0 done, 1 something is slower or learns otherwise (duet), 2 wrong usage, 3 a problem with "
        "data or state, 4 not decided (duet) or not found (bisect), 5 damaged lines (import-log), 6 rates disagree "
        "(import-log), 130 stopped by a signal.",
    )
    parser.add_argument("--version", action="version", version=f"stepmark {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: str, about: str, epilog: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=about,
            description=wrapped(f"{about.capitalize()}."),
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,  # an epilog keeps its lines
        )
        added.set_defaults(run=run)
        return added

    command("demo", "perf.app.first:demo", "plant a slowdown and another training in a copy, and find both: a minute")
    command("doctor", "perf.app.first:doctor", "say what this machine can show, and what to do about it")
    about = "write a template of a training step unless the file is there, and check it"
    add = command("init", "perf.app.first:init", about).add_argument
    add("file", type=Path, nargs="?", default=Path("bench_step.py"), metavar="FILE", help="default: bench_step.py")
    add = command("workloads", "perf.finding:print_workloads", "list what can be measured").add_argument
    add("files", type=Path, nargs="*", metavar="FILE", help="Python files (default: bench_*.py at the project's root)")
    about = "make a result the baseline of its machine, which nothing else does"
    add = command("promote", "perf.app.promotion:promote_result", about).add_argument
    add("--from", dest="result", type=Path, metavar="FILE", help="what pytest wrote (default: runs/bench.json)")
    add("--reason", default="", metavar="TEXT", help="why, for the log of promotions in the file")
    add = command("report", "perf.app.report:report", "say what a result says, and make its page").add_argument
    add("runs", type=Path, nargs="*", metavar="RUN", help="what pytest or duet wrote (default: runs/bench.json)")
    about = "show the trend over sessions, where it changed and since when it is bad, and make a page"
    add = command("history", "perf.app.report:history", about).add_argument
    add("folder", type=Path, nargs="?", metavar="DIR", help="default: the folder that STEPMARK_HISTORY names")
    _add_duet(command)
    _add_train(command)
    about = "read training logs and audit their rates"
    add = command("import-log", "perf.app.import_log:import_log", about).add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="a training log, or a trainer_state.json; - for stdin")
    formats = "cerebras, hf-trainer, torchtitan, megatron, or a pattern (default: detected)"
    add("--format", dest="form", metavar="F", help=formats)
    add("--json", dest="as_json", action="store_true", help="print what was found as JSON")
    return parser


def _add_duet(command: Callable[..., argparse.ArgumentParser]) -> None:
    about = "compare two versions in many pairs of runs side by side, and say where a difference comes from"
    add = command("duet", "perf.app.duet:duet", about, SPECS).add_argument
    add("--baseline", nargs="+", metavar="SPEC", help="default: git:HEAD; git:HEAD~1 where nothing has changed since")
    add("--candidate", nargs="+", metavar="SPEC", help="what to judge (default: self)")
    add("--json", type=Path, metavar="FILE", help="keep all raw values in this file")
    _add_compared(add)
    about = "let git find the commit that made a step slower, or otherwise, with duets as the test"
    add = command("bisect", "perf.app.bisect:bisect", about).add_argument
    add("--good", required=True, metavar="REF", help="a commit that is as it should be")
    add("--bad", required=True, metavar="REF", help="a later one that is not")
    _add_compared(add)


def _add_compared(add: Callable[..., object]) -> None:
    add("--threshold", type=fraction, metavar="T", help="smallest change that matters (default: the workload's or 2%%)")
    add(
        "--workload",
        metavar="W",
        help=f"{WORKLOAD} (default: all in the project's bench_*.py and stepmark.toml, else {DEFAULT})",
    )
    add("--global-batch-size", type=positive, nargs="+", metavar="B", help="default: the workload's")
    add("--precision", choices=PRECISIONS, help=f"default: the workload's ({AUTO})")
    add("--budget", type=seconds, default=120.0, metavar="S", help="for each batch size, as in 90s or 5m (default: 2m)")
    mode_help = "simultaneous is with half the cores each (default: what suits the machine)"
    add("--mode", choices=("simultaneous", "alternating"), help=mode_help)


def _add_train(command: Callable[..., argparse.ArgumentParser]) -> None:
    about = "train a workload at one or more global batch sizes"
    devices = "Several devices: torchrun --nproc-per-node=N -m perf train ..."
    train = command("train", "perf.app.train:train", about, devices)
    add = train.add_argument_group("what to train").add_argument
    add("--workload", metavar="W", help=f"a built-in one, see {tool()} workloads (default: {DEFAULT})")
    size_help = "samples per optimizer step, over all devices; several make one run each (default: the workload's)"
    add("--global-batch-size", type=positive, nargs="+", metavar="B", help=size_help)
    add("--seed", type=not_negative, default=0, metavar="S", help="of weights, data and dropout (default: 0)")
    add = train.add_argument_group("how long").add_mutually_exclusive_group().add_argument
    add("--max-steps", type=positive, metavar="N", help="stop at this step (default: the workload's)")
    add("--num-steps", type=positive, metavar="N", help="make this many more steps, each time")
    state = train.add_argument_group("logs and checkpoints")
    add = state.add_argument
    add("--log-steps", type=positive, metavar="L", help="a log line every L steps (default: the workload's)")
    add("--checkpoint-steps", type=positive, metavar="C", help="a checkpoint every C steps (default: only at the end)")
    add("--keep-checkpoints", type=not_negative, default=2, metavar="K", help="the newest; 0 writes none (default: 2)")
    add("--model-dir", type=Path, metavar="DIR", help="where the checkpoints are (default: runs/WORKLOAD/gbs-B)")
    add("--tensorboard", type=Path, metavar="DIR", help="also write the scalars of TensorBoard there, in DIR/gbs-B")
    add = state.add_mutually_exclusive_group().add_argument
    fresh_help = "start at step 0; the checkpoints there move to DIR/previous-N"
    add("--fresh", dest="start", action="store_const", const="fresh", default="resume", help=fresh_help)
    add("--load", dest="start", choices=["weights"], help="as --fresh, with the weights of the newest checkpoint")
    add = train.add_argument_group("where and how").add_argument
    add("--device", choices=DEVICES, default="auto", help="default: auto (CUDA where there is one)")
    add("--precision", choices=PRECISIONS, default="auto", help=f"default: {AUTO}")
    add("--micro-batch-size", type=positive, metavar="B", help="samples per forward pass (default: the workload's)")
    add("--compile", action="store_true", help="use torch.compile (needs a C++ compiler on CPU)")
