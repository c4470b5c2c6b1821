"""Write a template of a training step, and check a step: is it repeatable, and what does it do?"""

import os
from pathlib import Path

import numpy as np

from perf.errors import EXIT_PROBLEM, MeasureError, UsageError
from perf.finding import Found, find_root, own_workloads
from perf.measure.duet import Duet
from perf.measure.sides import own_side
from perf.printable import shown
from perf.records.pairs import Mode
from perf.records.wire import CaseSpec, SideWork
from perf.signals import stopped_by_signals

TEMPLATE = Path(__file__).with_name("template.py")
"""A workload like a user's own; it is copied, and never imported here."""


def init(file: Path) -> int:
    """Write the template to a file, or leave the file that is there, and check its workloads; return the exit code."""
    if file.suffix != ".py":
        raise UsageError(f"{file}: a Python file is needed, such as bench_step.py")
    if file.exists():
        print(f"{file} is there already, and is left as it is.")
    else:
        file.write_text(TEMPLATE.read_text(encoding="utf-8").replace("FILE", str(file)), encoding="utf-8")
        print(f"{file} is written: put your own model and data in its step.")
    found, problems = own_workloads(find_root(), [file])
    if problems:
        raise UsageError("; ".join(problems))
    fine = [check(target) for target in found]
    is_fine = all(fine)
    print(f"Next: {f'pytest {shown(file)}' if is_fine else 'mend what is marked NOT'}")
    return 0 if is_fine else EXIT_PROBLEM


def check(target: Found) -> bool:
    """Build a step in two processes and print what it does; return whether it can be measured.

    Raises:
        MeasureError: it cannot be built, or fails.
    """
    size = min(target.workload.global_batch_sizes)
    side = own_side(find_root(), target.id, os.environ)
    cases = {size: CaseSpec(global_batch_size=size, precision=target.workload.precision)}
    print(f"Checking {target.id} at {size} in two processes ...", flush=True)
    with stopped_by_signals():
        duet = Duet((side, side), cases, mode=Mode.ALTERNATING, cores=(), rng=np.random.default_rng())
        first, second = duet.work()[size]
    if not first.losses:
        raise MeasureError(f"{target.id}: made no step")
    is_repeatable = (first.losses, first.scalars) == (second.losses, second.scalars)
    print(f"  losses of the first steps: {', '.join(f'{loss:.4f}' for loss in first.losses[:3])}, ... (finite)")
    if is_repeatable:
        print("  two processes have the same losses")
    else:
        print("  NOT repeatable: two processes have other losses; seed weights, data and all else from case.seed")
    print("\n".join(f"  {line}" for line in _work(first, second)))
    return is_repeatable and first.counters == second.counters


def _work(work: SideWork, other: SideWork) -> list[str]:
    """Return what a step does."""
    counters = work.counters
    syncs, updates = counters["host_syncs"], counters["optimizer_updates"]
    lines = [
        f"a step: {sum(counters['ops'].values()):,} operations, {counters['flops'] / 1e9:.3g} GFLOP, "
        f"{counters['peak_bytes'] / 2**20:.3g} MiB at its peak",
        f"{syncs} host syncs a step: .item(), bool() and the like make Python wait for the device; leave them out"
        if syncs
        else "no host syncs",
    ]
    if counters != other.counters:
        lines.append("NOT the same work: two processes count other operations in a step")
    if updates != 1:
        lines.append(f"{updates} optimizer updates in a step, where one is usual (torch.optim's are counted)")
    return lines
