"""Which planted faults a session finds, by which claim: ``python docs/studies/faults.py``, at a commit, on Linux.

In a clone of the repository the workload pico is measured at 512 and promoted. Then each fault is written into the
clone's source and measured against that baseline with two runs, as ``pytest --benchmark-compare`` does, without
comparing side by side. A fault is found if a claim fails. It takes about five minutes, and a machine to itself.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNEL, DATA, SLICES, STEPPING, RUNNER = (
    f"perf/{name}.py" for name in ("train/kernel", "train/data", "runner/slices", "train/stepping", "runner/__main__")
)
STEP = "            stepping.step()\n            if on_gpu:"
LAST_STEP = "        stepping.step()\n        stepping.read()"

FAULTS = {
    "kernel: an extra product": (
        KERNEL,
        "    total = torch.zeros(",
        "    torch.ones(8, 8) @ torch.ones(8, 8)\n    total = torch.zeros(",
    ),
    "kernel: loss.item()": (KERNEL, "        total += loss.detach()", "        total += loss.item()"),
    "kernel: gradients set to zero": (KERNEL, "zero_grad(set_to_none=True)", "zero_grad(set_to_none=False)"),
    "kernel: no clipping": (KERNEL, "    nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)\n", ""),
    "kernel: a schedule one step late": (KERNEL, "    rise = step / warmup", "    rise = (step - 1) / warmup"),
    "kernel: 12 ms of sleep": (
        KERNEL,
        "    optimizer.step()",
        "    __import__('time').sleep(0.012)\n    optimizer.step()",
    ),
    "loop: 12 ms of sleep": (SLICES, STEP, STEP.replace("step()", "step()\n            time.sleep(0.012)", 1)),
    "loop: losses read at every step, and 8 ms": (
        SLICES,
        STEP,
        STEP.replace("step()", "step()\n            stepping.read()\n            time.sleep(0.008)", 1),
    ),
    "loop: two steps for one": (SLICES, LAST_STEP, LAST_STEP.replace("step()", "_step()", 1) + "\n" + LAST_STEP),
    "data: another masking rate": (DATA, "fate < 0.8", "fate < 0.7"),
    "data: every block drawn twice": (
        DATA,
        "        blocks = [self._block(index) for index in range(first, last + 1)]\n",
        "        blocks = [self._block(index) for index in range(first, last + 1)]\n" * 2,
    ),
    "data: a clone": (DATA, "            return self\n", "            return self.cloned()\n"),
    "model: another GELU": (KERNEL, "F.gelu(self.intermediate(h))", "F.gelu(self.intermediate(h), approximate='tanh')"),
    "model: another epsilon": (KERNEL, "LAYER_NORM_EPS = 1e-5", "LAYER_NORM_EPS = 1e-6"),
    "model: a full last layer": (
        KERNEL,
        "        x = self.layers[-1](x, queries)  # (B, 1 + P, H)\n",
        "        x = self.layers[-1](x, x).flatten(0, 1).index_select(0, rows).unflatten(0, read.shape)\n",
    ),
    "model: a contiguous copy": (
        KERNEL,
        "self.output(mixed.transpose(1, 2).flatten(2))",
        "self.output(mixed.transpose(1, 2).contiguous().clone().flatten(2))",
    ),
    "optimizer: fused=False": (KERNEL, "fused=True", "fused=False"),
    "optimizer: decay on vectors": (KERNEL, '"weight_decay": 0.0', '"weight_decay": workload.weight_decay'),
    "optimizer: other betas": (KERNEL, "fused=True", "fused=True, betas=(0.9, 0.99)"),
    "threads: one": (
        RUNNER,
        "torch.set_num_threads(request.num_threads or num_threads)",
        "torch.set_num_threads(1)",
    ),
}
CLONED = """
    def cloned(self) -> Batch:
        return Batch(**{field.name: getattr(self, field.name).clone() for field in fields(self)})

    def to("""


def main() -> int:
    """Print which claims found each fault; return 1 if one was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose name holds this")
    chosen = {name: fault for name, fault in FAULTS.items() if parser.parse_args().only in name}
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        clone = Path(folder, "clone")
        run(["git", "clone", "--quiet", str(ROOT), str(clone)], ROOT)
        measured(clone, "--perf-runs", "6")
        run([sys.executable, "-m", "perf", "promote", "--reason", "as it is"], clone)
        missed = [name for name, fault in {"none": (), **chosen}.items() if not report(clone, name, *fault)]
    print(f"{len(chosen) - len({*missed} - {'none'})} of {len(chosen)} found")
    return 1 if missed != ["none"] else 0


def report(clone: Path, name: str, *fault: str) -> bool:
    """Plant a fault, measure, print which claims failed and why, and return whether one did."""
    for file, before, after in [fault] if fault else []:
        path = clone / file
        text = path.read_text()
        assert text.count(before) == 1, f"{name}: {file} has {text.count(before)} of {before!r}"
        changed = text.replace(before, after)
        path.write_text(changed.replace("\n    def to(", CLONED) if ".cloned()" in after else changed)
    printed = measured(clone, "--benchmark-compare", "--perf-duet", "never", "--perf-runs", "2")
    failed = re.findall(r"^FAILED \S+::test_(\w+)\[512\] - (?:Failed: )?(.*)", printed, re.MULTILINE)
    print(f"{name}: {'found by' if failed else 'nothing fails'} {', '.join(claim for claim, _ in failed)}")
    for claim, why in failed:
        print(f"    {claim}: {why[:150]}", flush=True)
    run(["git", "checkout", "--quiet", "perf"], clone)
    return bool(failed)


def measured(clone: Path, *arguments: str) -> str:
    """Return what a session at 512 in the clone prints."""
    command = [sys.executable, "-m", "pytest", "tests/benchmarks", "-k", "512", "-p", "no:cacheprovider", *arguments]
    return run(command, clone, may_fail=True)


def run(command: list[str], folder: Path, *, may_fail: bool = False) -> str:
    """Run a command, and return what it prints."""
    environ = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "400"}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
