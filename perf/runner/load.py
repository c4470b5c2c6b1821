"""The workload that a runner serves, imported from its own side only, and the cases of it."""

from __future__ import annotations

import sys
from pathlib import Path

from perf.errors import MeasureError
from perf.finding import Found, find
from perf.records.wire import CaseSpec
from perf.seam import Case, Workload
from perf.train.devices import resolve_device, resolve_precision


def load(name: str, root: Path, candidate_root: Path | None) -> Found:
    """Import the module of a workload.

    Args:
        name: the workload's id.
        root: the project's folder on this side; what the module imports comes from here.
        candidate_root: that of the other side, if this side is a checkout: its file is used where this side has none.

    Raises:
        UsageError: there is no such workload, or its module could not be imported.
        MeasureError: what it imports came from the other side: both sides would be the same code, and be called equal.
    """
    found = find(name, root, candidate_root)
    if candidate_root is None or ":" not in name:
        return found
    for module in list(sys.modules.values()):
        file = Path(getattr(module, "__file__", None) or "/")
        foreign = candidate_root in file.parents and root not in file.parents and file != found.origin
        if foreign and not {"site-packages", "dist-packages"} & set(file.parts):
            raise MeasureError(
                f"workload {name}: {module.__name__} was imported from {file}, which is the candidate's; this side's "
                f"commit has none under {root} or {root / 'src'}"
            )
    return found


def make_case(workload: Workload, spec: CaseSpec) -> Case:
    """Return the case that a request asks for; what it leaves open is the workload's, then the machine's.

    Raises:
        ValueError: the device is not there, or the micro-batch size does not divide the batch.
    """
    size, device = spec.global_batch_size, resolve_device(spec.device)
    micro_batch_size = spec.micro_batch_size or workload.micro_batch_size_of(size)
    if size % micro_batch_size:
        raise ValueError(f"micro-batch size {micro_batch_size} does not divide global batch size {size}")
    return Case(
        global_batch_size=size,
        micro_batch_size=micro_batch_size,
        seed=spec.seed,
        device=str(device),
        precision=resolve_precision(spec.precision or workload.precision, device),
    )
