"""How often duets are right: A/A trials, and trials against slowdowns of known size, recorded raw.

Run with ``python docs/studies/duets.py --out FILE``. A slowdown is extra arithmetic in the kernel of a git branch, made
here and removed afterwards. What a product costs is found by a duet, since products cost less in training than timed
alone. Trials never stop early, so what a smaller budget or another rule would have said can be computed from the same
record: ``python docs/studies/duet_rules.py FILE``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from perf.measure.duet import Duet
from perf.measure.sides import HOME, Side, parse_recipe, prepared
from perf.records.sessions import Mode, Pair
from perf.records.wire import CaseSpec
from perf.runner.machine import fingerprint
from perf.train.workloads import WORKLOADS

UNIT = 96
"""Side of the square matrices whose products are the extra arithmetic."""

ANCHOR = "    total = torch.zeros((), device=batch.input_ids.device)\n"
WORKLOAD = "pico"
MANY = 500
"""Products of a micro-batch that slow a step by several percent."""


def main() -> None:
    """Record the trials asked for, in random order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a file of JSON lines; new trials are added to it")
    parser.add_argument("--percent", type=float, nargs="+", default=[0, 1, 2, 3, 5, 10], help="0 is A/A")
    parser.add_argument("--trials", type=int, default=20, help="of each")
    parser.add_argument("--budget", type=float, default=60, help="seconds of a trial")
    parser.add_argument("--mode", type=Mode, choices=list(Mode), default=Mode.SIMULTANEOUS)
    parser.add_argument("--global-batch-size", type=int, nargs="+", default=[512])
    parser.add_argument("--products", type=float, help="that lower the rate by 1 %%; without it they are found first")
    arguments = parser.parse_args()
    mode, budget_s = arguments.mode, arguments.budget
    products = arguments.products
    if products is None and any(arguments.percent):
        products = products_of_a_percent(mode)
        print(f"--products {products:.1f}", flush=True)
    doses = {percent: round(percent * (products or 0)) for percent in arguments.percent}
    with ExitStack() as stack:
        sides = {percent: stack.enter_context(slowed(doses[percent])) for percent in arguments.percent}
        plan = list(itertools.product(arguments.percent, arguments.global_batch_size)) * arguments.trials
        for number, i in enumerate(np.random.default_rng().permutation(len(plan)).tolist(), start=1):
            percent, size = plan[i]
            found = trial(sides[percent], mode, budget_s=budget_s, size=size)
            with arguments.out.open("a") as out:
                out.write(json.dumps({"percent": percent, "products": doses[percent], **found}) + "\n")
            print(f"{number} of {len(plan)}: {percent} % at {size}: {len(found['pairs'])} pairs", flush=True)


def num_threads(mode: Mode) -> int:
    """Return the threads of a side; 0 leaves what the environment says."""
    return len(os.sched_getaffinity(0)) // 2 if mode is Mode.SIMULTANEOUS else 0


def trial(candidate: Side, mode: Mode, *, budget_s: float, size: int) -> dict[str, Any]:
    """Return one duet of the working tree against `candidate`, raw: seconds, logarithms of rate ratios."""
    with prepared(parse_recipe(["self"]), "baseline", HOME, WORKLOAD, os.environ) as baseline:
        duet = Duet(
            (baseline, candidate),
            {size: CaseSpec(global_batch_size=size, device="cpu")},
            mode=mode,
            cores=os.sched_getaffinity(0),
            num_threads=num_threads(mode),
            rng=np.random.default_rng(),
        )
        pairs: list[Pair] = []
        took_s = 0.0
        while duet.elapsed_s + took_s / 2 <= budget_s:  # as a duet that finds nothing
            began_s = duet.elapsed_s
            pairs += duet.start([size], budget_s=budget_s)
            took_s = duet.elapsed_s - began_s
    return {
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": fingerprint().hardware["cpu"],
        "start_s": round(duet.start_s, 3),
        "mode": mode,
        "budget_s": budget_s,
        "global_batch_size": size,
        "pairs": [
            {
                "start": pair.start,
                "ended_s": round(pair.ended_s, 3),
                "effect": round(pair.effect, 6),
                "baseline_step_s": step_s(pair.baseline),
                "candidate_step_s": step_s(pair.candidate),
            }
            for pair in pairs
        ],
    }


def step_s(slices: tuple[tuple[float, ...], ...]) -> list[float]:
    """Return the seconds of each step."""
    return [round(step, 6) for marks in slices for step in np.diff(marks).tolist()]


@contextmanager
def slowed(products: int) -> Iterator[Side]:
    """Make a side that multiplies matrices `products` times more a micro-batch, from a branch of its own."""
    with ExitStack() as stack:
        spec = f"git:{stack.enter_context(slow_branch(products))}" if products else "self"
        yield stack.enter_context(prepared(parse_recipe([spec]), "candidate", HOME, WORKLOAD, os.environ))


@contextmanager
def slow_branch(products: int) -> Iterator[str]:
    """Make a branch whose kernel also multiplies matrices, `products` times a micro-batch; yield its name."""
    name = f"slower-{os.getpid()}-{products}"
    with tempfile.TemporaryDirectory(prefix="stepmark-") as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "-b", name, str(tree), "HEAD")
        try:
            kernel = tree / "perf" / "train" / "kernel.py"
            text = kernel.read_text()
            assert ANCHOR in text
            extra = (
                f"    extra = torch.ones({UNIT}, {UNIT}, device=batch.input_ids.device)\n"
                f"    for _ in range({products} * grad_accum_steps):\n        extra @ extra\n"
            )
            kernel.write_text(text.replace(ANCHOR, ANCHOR + extra))
            identity = ["-c", "user.name=stepmark", "-c", "user.email=stepmark@localhost"]
            _git("-C", str(tree), *identity, "commit", "--quiet", "-am", f"{products} extra products")
            yield name
        finally:
            _git("worktree", "remove", "--force", str(tree))
            _git("branch", "-D", name)


def products_of_a_percent(mode: Mode) -> float:
    """Return how many products lower the rate by 1 %: a duet of one minute against many of them."""
    with slowed(MANY) as candidate:
        pairs = trial(candidate, mode, budget_s=60, size=min(WORKLOADS[WORKLOAD].global_batch_sizes))["pairs"]
    return MANY * 0.01 / -float(np.mean([pair["effect"] for pair in pairs]))


def _git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(HOME), *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    main()
