"""The first five minutes: a template and a check of it, a demonstration, and what this machine can show."""

import os
import subprocess
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from perf.app.duet import EXIT_DIFFERS, duet
from perf.app.what import BUSY, busy_share
from perf.errors import EXIT_PROBLEM, MeasureError, UsageError
from perf.finding import Found, find_root, own_workloads
from perf.measure.duet import Duet, choose_mode, usable_cores
from perf.measure.sides import own_side
from perf.printable import shown, wrapped
from perf.records.sessions import Mode
from perf.records.wire import CaseSpec
from perf.runner.machine import fingerprint
from perf.signals import EXIT_STOPPED, stopped_by_signals

TEMPLATE = Path(__file__).with_name("template.txt")
"""A workload like a user's own; it is copied, and never imported here."""

DEMO_FILE, DEMO_SIZE, DEMO_BUDGET_S = "bench_demo.py", 1024, 40

LOSS = "        loss = nn.functional"
# A forward pass on a seventh of the batch: about a twentieth of a step.
SLOWER = "        with torch.no_grad():\n            model(inputs[: len(inputs) // 7])\n"
FAULTS = (
    # what the demonstration plants, and the text of the template before and after it
    ("1. A line that makes the step about 5 % slower, not committed:", LOSS, SLOWER + LOSS),
    ("2. Instead, another learning rate, which changes the losses:", "lr=1e-3", "lr=1.1e-3"),
)


def init(file: Path) -> int:
    """Write the template to a file, or leave the file that is there, and check its workloads; return the exit code."""
    if file.suffix != ".py":
        raise UsageError(f"{file}: a Python file is needed, such as bench_step.py")
    if file.exists():
        print(f"{file} is there already, and is left as it is.")
    else:
        file.write_text(TEMPLATE.read_text(encoding="utf-8").replace("FILE", str(file)), encoding="utf-8")
        print(f"{file} is written: put your own model and data in its step.")
    checked = [_check(target) for target in own_workloads(find_root(), [file])]
    is_fine = all(checked)
    print(f"Next: {f'pytest {shown(file)}' if is_fine else 'mend what is marked NOT'}")
    return 0 if is_fine else EXIT_PROBLEM


def _check(target: Found) -> bool:
    """Build a step in two processes, print what it does, and return whether it is repeatable. Errors as in `Duet`."""
    size = min(target.workload.global_batch_sizes)
    side = own_side(find_root(), target.id, os.environ)
    cases = {size: CaseSpec(global_batch_size=size, precision=target.workload.precision)}
    print(f"Checking {target.id} at {size} in two processes ...", flush=True)
    with stopped_by_signals():
        sides = Duet((side, side), cases, mode=Mode.ALTERNATING, cores=(), rng=np.random.default_rng())
        first, second = sides.work()[size]
    counters = first.counters
    is_repeatable = (first.losses, first.scalars, counters) == (second.losses, second.scalars, second.counters)
    print(f"  losses of the first steps: {', '.join(f'{loss:.4f}' for loss in first.losses[:3])}, ... (finite)")
    if is_repeatable:
        print("  two processes have the same losses")
    else:
        print("  NOT repeatable: two processes have other losses or work; seed all that is random from case.seed")
    print(
        f"  a step: {sum(counters['ops'].values()):,} operations, {counters['flops'] / 1e9:.3g} GFLOP, "
        f"{counters['peak_bytes'] / 2**20:.3g} MiB at its peak"
    )
    print(f"  {counters['host_syncs']} host syncs (.item(), bool() and the like make Python wait for the device)")
    return is_repeatable


def demo() -> int:
    """Make a project, plant two faults one after the other, and return the exit code: 0 if both were found.

    Raises MeasureError: a duet could not be made, or the planted faults were not found. OSError: git is missing.
    """
    whole, file, codes = TEMPLATE.read_text(encoding="utf-8").replace("FILE", DEMO_FILE), Path(DEMO_FILE), []
    with stopped_by_signals(), TemporaryDirectory(prefix="stepmark-demo-") as folder, chdir(folder):
        file.write_text(whole, encoding="utf-8")
        print(f"A project with one training step ({file}) and one commit is made in {folder}.")
        _git("init", "--quiet")
        _git("add", DEMO_FILE)
        who = ["-c", "user.name=stepmark", "-c", "user.email=stepmark@localhost", "-c", "commit.gpgsign=false"]
        _git(*who, "commit", "--quiet", "--message", "a training step")
        for title, text, faulty in FAULTS:
            file.write_text(whole.replace(text, faulty), encoding="utf-8")
            print(f"\n{title}\n\n$ git diff --unified=0", flush=True)
            _git("--no-pager", "diff", "--unified=0", "--no-color")
            print(f"\n$ stepmark duet --global-batch-size {DEMO_SIZE} --budget {DEMO_BUDGET_S}s", flush=True)
            codes.append(duet(global_batch_size=[DEMO_SIZE], budget=float(DEMO_BUDGET_S)))
            if codes[-1] == EXIT_STOPPED:
                return EXIT_STOPPED
    if (found := codes.count(EXIT_DIFFERS)) < 2:
        raise MeasureError(f"found {found} of 2 planted faults; stop other programs (stepmark doctor), and try again")
    print("\nBoth were found. Next, with your own step: stepmark init")
    return 0


def _git(*arguments: str) -> None:
    """Run git in the current folder with its output shown; where it fails, the duet finds no commit."""
    subprocess.run(["git", *arguments])


def doctor() -> int:
    """Print how duets share the cores, how other programs load them, and the GPUs, each with advice; return 0."""
    hardware, cores, share = fingerprint().hardware, usable_cores(), busy_share(1.0)
    num_gpus = int(hardware["num_gpus"])
    mode, reason = choose_mode([], num_gpus=num_gpus, cores=cores)
    needs_time = mode is Mode.ALTERNATING and not num_gpus
    clock = "the clock moves with temperature and load; lock it where you may: nvidia-smi --lock-gpu-clocks"
    for fact, is_noted, advice in (
        (f"{len(cores)} cores, {mode} duets ({reason})", needs_time, "they need about four times the time"),
        (f"other programs use {share:.0%} of the cores", share >= BUSY, "stop them, or expect to need larger budgets"),
        (f"{num_gpus} GPUs ({hardware['gpu']})", num_gpus > 0, clock),
    ):
        print(wrapped(f"NOTE  {fact}: {advice}" if is_noted else f"ok    {fact}"))
    return 0
