"""What is to be measured: which workload, at which batch sizes, for how long; on which machine, and how busy it is."""

import functools
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from msgspec import Struct

from perf.errors import UsageError
from perf.finding import Found, find, find_root, own_workloads
from perf.printable import shown
from perf.records.baselines import BASELINES_DIR, baseline_path
from perf.records.sessions import Fingerprint, configuration, is_command
from perf.runner.machine import fingerprint
from perf.train.devices import resolve_device, resolve_precision
from perf.train.workloads import default_workload

BUSY = 0.1  # the share of all cores from which on measuring is disturbed


@functools.cache
def here() -> Fingerprint:
    """Return this machine and its software, as they were when somebody first asked."""
    return fingerprint()


class What(Struct, frozen=True, kw_only=True):
    """What is trained and measured, by a session or by two sides."""

    root: Path  # of the project
    target: Found  # the workload
    sizes: Sequence[int]  # the global batch sizes
    precision: str  # "fp32", "bf16", or "auto" to let each side choose; "" of a command
    budget_s: float  # for each batch size, seconds
    mode: str | None = None  # "simultaneous" or "alternating"; None for what suits the machine
    environ: Mapping[str, str]  # what the sides' environments are built on

    def __post_init__(self) -> None:
        if is_command(self.target.id) and (self.precision or self.mode):
            raise UsageError(
                f"{self.target.id}: is a command, whose precision and mode are its own; leave both options out"
            )

        known = self.target.workload.global_batch_sizes
        if is_command(self.target.id) and not {*self.sizes} <= {*known}:
            raise UsageError(
                f"{self.target.id}: has the batch sizes {', '.join(map(str, known))}; add others to its entry"
            )

    @property
    def baseline_path(self) -> Path:
        """Where this machine's baseline is, or would be, as a reader has it from here."""
        name, device = self.target.id, resolve_device("auto")
        if not is_command(name):
            name = configuration(name, device.type, resolve_precision(self.precision, device))
        return baseline_path(shown(self.root / BASELINES_DIR), name, here())


def what(
    *,
    workload: str | None = None,
    global_batch_size: Sequence[int] | None = None,
    precision: str | None = None,
    budget: float,
    mode: str | None = None,
) -> list[What]:
    """Return what a command's options ask for; None means what the workload or the machine says.

    Without a workload, that is each of those in the project's own ``bench_*.py``, or else the default one.

    Raises:
        UsageError: there is no such workload, a file of workloads cannot be imported, or a command is asked for a
            precision or a mode.
    """
    root = find_root()
    default = default_workload(resolve_device("auto").type)
    targets = [find(workload, root)] if workload else own_workloads(root) or [find(default, root)]
    return [
        What(
            root=root,
            target=target,
            sizes=sorted(set(global_batch_size or target.workload.global_batch_sizes)),
            precision=precision or target.workload.precision,
            budget_s=budget,
            mode=mode,
            environ=os.environ,
        )
        for target in targets
    ]


def busy_share(seconds: float = 0.3) -> float:
    """Return the share of all cores' time that is in use, stolen time included.

    It looks for `seconds`, and is to be asked while nothing of ours runs.
    """
    return psutil.cpu_percent(seconds) / 100


def noted_load() -> float:
    """Return `busy_share`, and print a warning where other programs use the cores."""
    if (share := busy_share()) >= BUSY:
        used = f"Other programs use {share:.0%} of the cores"
        print(f"{used}: times will vary more. Stop them, or expect to need more time.", flush=True)
    return share


def health(share: float) -> dict[str, str | int]:
    """Return how the machine is now: `share` of `busy_share`, and the clock of its cores, where that is known."""
    found: dict[str, str | int] = {"cores in use before": f"{share:.0%}"}
    with suppress(OSError, NotImplementedError):
        if clocks := [core.current for core in psutil.cpu_freq(percpu=True)]:
            found["clock"] = f"{min(clocks):,.0f} to {max(clocks):,.0f} MHz"
    return found
