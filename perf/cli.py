"""The command line: ``stepmark``, or ``python -m perf``."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import torch
from tqdm import tqdm

from perf import __version__
from perf.app.compare import add_calibrate, add_duet, run_calibrate_command, run_duet_command
from perf.app.import_log import add_import_log, run_import_log_command
from perf.app.promotion import promote
from perf.arguments import not_negative, positive
from perf.errors import BaselineError, MainRankError, NothingToDoError, PerfError, UsageError
from perf.printable import printable
from perf.records.baselines import BASELINES_DIR, LATEST_RESULT, load_session
from perf.report.bench import promotion_note
from perf.report.training import run_heading, run_table, session_heading, stop_note
from perf.signals import EXIT_STOPPED
from perf.train.config import RunConfig, RunPlan, plan_run
from perf.train.data import Source, SyntheticLanguage
from perf.train.devices import DEVICES, PRECISIONS, World, process_group, resolve_device, resolve_precision
from perf.train.loop import RunResult, run_steps
from perf.train.text import TextCorpus
from perf.train.workloads import BERT_CONFIGS, default_workload

EXIT_DONE, EXIT_USAGE, EXIT_PROBLEM = 0, 2, 3
RUNS_DIR = Path("runs")
MOST_REASON = 1000
"""Characters of the reason for a promotion; files that have more are refused when they are read."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 wrong usage, 3 a problem with data or state, 130 stopped.

    Other codes are a command's own; its help lists them.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A log is read while it grows, and a name that a terminal cannot show must not end a run.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        commands = {
            "train": _train,
            "import-log": run_import_log_command,
            "promote": _promote,
            "duet": run_duet_command,
            "calibrate": run_calibrate_command,
        }
        return commands[arguments.command](arguments)
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


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Turn a ValueError, which names a wrong argument, into a usage error; no training happens inside."""
    try:
        yield
    except ValueError as error:
        raise UsageError(error) from None


def _known_trouble(error: BaseException) -> str | None:
    """Return in one line what a user can do something about, or None for a defect of this project."""
    # On a CPU, torch tells that memory is out only in words.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return f"out of memory ({error}); use a smaller --micro-batch-size"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return f"--compile: torch could not compile the model ({reason}); mend its C++ compiler, or leave --compile out"
    return None


def _train(arguments: argparse.Namespace) -> int:
    with ExitStack() as group:
        with _usage_errors():
            device = resolve_device(arguments.device)
            world = group.enter_context(process_group(device))
            configs = _run_configs(arguments, device)
            source = _source(arguments, configs[0])
            # All are planned before the first one starts: a run that cannot start is told at once.
            plans = [plan_run(config, source, world) for config in configs]
        if world.is_main:
            print(
                session_heading(
                    configs[0], source, world, torch_version=torch.__version__, num_threads=torch.get_num_threads()
                )
            )
        results: list[RunResult] = []
        try:
            for plan in plans:
                results.append(_run(plan, source, world))
                if results[-1].interrupted:
                    break
        finally:  # what was measured is shown, also when a later run fails
            if world.is_main and results:
                print(f"\n{run_table(results)}")
        if not results[-1].interrupted:
            return EXIT_DONE
        if world.is_main:
            print(stop_note(results[-1], plans[len(results) :]))
        return EXIT_STOPPED


def _run(plan: RunPlan, source: Source, world: World) -> RunResult:
    if world.is_main:
        print(f"\n{run_heading(plan)}")
    with tqdm(
        total=plan.last_step - plan.start_step,
        unit="step",
        leave=False,
        delay=3,
        disable=None if world.is_main else True,  # None: shown only where stderr is a terminal
    ) as bar:

        def on_line(line: str) -> None:
            bar.write(line, file=sys.stdout)

        return run_steps(plan, source, world, on_line=on_line, on_step=bar.update)


def _run_configs(arguments: argparse.Namespace, device: torch.device) -> list[RunConfig]:
    workload = BERT_CONFIGS[arguments.workload] if arguments.workload else default_workload(device.type)
    sizes = arguments.global_batch_size or list(workload.global_batch_sizes)
    if arguments.model_dir is not None and len(sizes) > 1:
        raise ValueError(
            f"--model-dir {arguments.model_dir} is the directory of one run, and {len(sizes)} batch sizes make "
            f"{len(sizes)} runs; give one --global-batch-size, or no --model-dir for a directory each"
        )
    if len(set(sizes)) < len(sizes):
        raise ValueError(f"--global-batch-size {' '.join(map(str, sizes))}: each size once")
    no_limit = arguments.max_steps is None and arguments.num_steps is None and arguments.num_epochs is None
    parent = RUNS_DIR / (workload.name + ("-text" if arguments.text else ""))
    return [
        RunConfig(
            workload=workload,
            global_batch_size=size,
            model_dir=arguments.model_dir or parent / f"gbs-{size}",
            device=device,
            precision=resolve_precision(arguments.precision, device),
            micro_batch_size=arguments.micro_batch_size,
            seed=arguments.seed,
            max_steps=workload.max_steps if no_limit else arguments.max_steps,
            num_steps=arguments.num_steps,
            num_epochs=arguments.num_epochs,
            log_steps=arguments.log_steps or workload.log_steps,
            checkpoint_steps=arguments.checkpoint_steps,
            keep_checkpoints=arguments.keep_checkpoints,
            start="fresh" if arguments.fresh else (arguments.load or "resume"),
            compile_model=arguments.compile,
        )
        for size in sizes
    ]


def _source(arguments: argparse.Namespace, config: RunConfig) -> Source:
    if arguments.text:
        return TextCorpus(arguments.text, config.workload, seed=config.seed)
    return SyntheticLanguage(config.workload, seed=config.seed)


def _promote(arguments: argparse.Namespace) -> int:
    if not BASELINES_DIR.is_dir():
        raise BaselineError(f"{Path.cwd()}: has no folder {BASELINES_DIR}; run this at the root of the project")
    if len(arguments.reason) > MOST_REASON:
        raise UsageError(f"--reason: has {len(arguments.reason):,} characters, and at most {MOST_REASON:,} are kept")
    if not arguments.from_.exists():
        raise BaselineError(
            f"{arguments.from_}: is not there; measure first (tox run -e bench), or name a result: --from"
        )
    date = datetime.now(UTC).isoformat(timespec="seconds")
    written = promote(arguments.from_, BASELINES_DIR, reason=arguments.reason, date=date)
    print(promotion_note(load_session(arguments.from_), written))
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m perf",
        allow_abbrev=False,
        description="Train reference workloads, read training logs, compare two versions side by side, and promote what "
        "pytest measured to a baseline.",
        epilog="Exit codes: 0 done, 1 something is slower or learns otherwise (duet), 2 wrong usage, 3 a problem with data "
        "or state, "
        "4 could not be decided (duet), 5 damaged lines (import-log), 6 rates that disagree (import-log), 130 stopped by a "
        "signal.",
    )
    parser.add_argument("--version", action="version", version=f"stepmark {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    add_import_log(commands)
    _add_promote(commands)
    add_duet(commands)
    add_calibrate(commands)
    return parser


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    names = "\n".join(f"  {w.name:18} {w.why}" for w in BERT_CONFIGS.values())
    train = commands.add_parser(
        "train",
        help="train a workload at one or more global batch sizes",
        description="Train a workload at each global batch size, log its rates, keep a checkpoint of each run.",
        epilog=f"workloads:\n{names}\n\nSeveral devices: torchrun --nproc-per-node=N -m perf train ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = train.add_argument_group("what to train")
    what.add_argument(
        "--workload", choices=BERT_CONFIGS, metavar="W", help="default: pico on CPU, bert-large-msl128 on CUDA"
    )
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
        "--from", dest="from_", type=Path, default=LATEST_RESULT, metavar="FILE",
        help=f"what pytest wrote (default: {LATEST_RESULT}, the latest session's)",
    )  # fmt: skip
    promote_.add_argument("--reason", default="", metavar="TEXT", help="why, for the log of promotions in the file")
