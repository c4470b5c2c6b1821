"""What this machine can show: one line for each fact, and what to do where it is not as it should be."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from perf.app.what import Here, What, what
from perf.errors import PerfError
from perf.measure.busy import BUSY, busy_share
from perf.measure.duet import choose_mode, usable_cores
from perf.measure.sides import last_other_commit
from perf.printable import indented

Fact = tuple[bool, str, str]  # whether it is as it should be, what it is, and what to do about it


def doctor() -> int:
    """Print the facts, and return 0: none of them keeps anybody from measuring."""
    asked = what(budget=0.0)
    first = asked[0]
    found = [_cores(first.here), _load(), _precision(), *_gpus(first.here), _git(first.root), *map(_baseline, asked)]
    for is_fine, fact, advice in found:
        print(f"{'ok  ' if is_fine else 'NOTE'}  {indented(f'{fact}: {advice}' if advice else fact, 6).lstrip()}")
    return 0


def _cores(facts: Here) -> Fact:
    cores, num_gpus = usable_cores(), int(facts.fingerprint.hardware["num_gpus"])
    mode, reason = choose_mode([], num_gpus=num_gpus, cores=cores)
    advice = "" if mode == "simultaneous" or num_gpus else "duets take turns, which needs about four times the time"
    return not advice, f"{len(cores)} cores, {mode} duets ({reason})", advice


def _load() -> Fact:
    share = busy_share(1.0)
    if share is None:
        return True, "load of other programs is not known here", ""
    advice = "" if share < BUSY else "stop other programs, or expect to need larger budgets"
    return not advice, f"other programs use {share:.0%} of the cores", advice


def _precision() -> Fact:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return True, "whether the processor multiplies bf16 is not known here", ""
    kinds = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    return True, f"bf16 on the CPU: {', '.join(kinds) or 'not native, slower than fp32'}", ""


def _gpus(facts: Here) -> Iterator[Fact]:
    """Yield the GPUs, and whether their clocks are fixed: else they move with temperature and load."""
    if not facts.fingerprint.hardware["num_gpus"]:
        yield True, "no GPU", ""
        return
    yield True, f"GPU: {facts.fingerprint.hardware['num_gpus']} x {facts.fingerprint.hardware['gpu']}", ""
    query = "--query-gpu=clocks.sm,clocks.max.sm,clocks_event_reasons.active"
    try:
        command = ["nvidia-smi", query, "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        yield False, "GPU clocks are not known", "nvidia-smi does not tell them"
        return
    for line in found.splitlines():
        yield False, f"GPU clock now, at most, why lower: {line}", "lock it where you may: nvidia-smi --lock-gpu-clocks"


def _git(root: Path) -> Fact:
    try:
        return True, f"stepmark duet compares git:{last_other_commit(root, True)} with the working tree", ""
    except PerfError as error:
        return False, "stepmark duet needs a commit to compare with", str(error)


def _baseline(what: What) -> Fact:
    """Return whether a workload has a baseline here, and what can be compared with it."""
    name = what.target.id
    try:
        found = what.load_baseline()
    except PerfError as error:
        return False, f"the baseline of {name} cannot be read", str(error)
    if found is None:
        return False, f"{name} has no baseline on this machine", "measure with pytest, then stepmark promote"
    if found.rerun_problem:
        advice = f"it {found.rerun_problem}; commit, measure and promote again"
        return False, f"the baseline of {name} cannot be compared side by side", advice
    unfit = "; its times are too noisy to compare with, so they are compared side by side" if found.times_unfit else ""
    return True, f"the baseline of {name} is of commit {found.provenance['commit'][:12]}{unfit}", ""
