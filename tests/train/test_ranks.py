"""Two ranks compute what one does, and only the first one speaks and saves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from perf.train.checkpoints import CheckpointStore

ROOT = Path(__file__).parents[2]
ARGUMENTS = ["--workload", "pico", "--global-batch-size", "64", "--micro-batch-size", "16", "--log-steps", "1"]


def train(command: list[str], model_dir: Path, max_steps: int) -> str:
    """Run the command line in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *command, "train", *ARGUMENTS, "--max-steps", str(max_steps), "--model-dir", model_dir],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(log: str) -> list[float]:
    """Return the loss of each step line."""
    return [float(loss) for loss in re.findall(r"^Step=\d+, Loss=([\d.]+),", log, flags=re.MULTILINE)]


def test_two_ranks_give_the_loss_curve_of_one(tmp_path: Path) -> None:
    """Same global batch, split over two processes and averaged: equal to rounding, also when resumed from one rank."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "perf"]
    one = train(["perf"], tmp_path / "one", 12)
    two = train(torchrun, tmp_path / "two", 8) + train(torchrun, tmp_path / "two", 12)
    assert len(losses(one)) == 12
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert losses(one)[-1] < losses(one)[0]
    assert two.count("Processed 512 sample(s)") == 1, "rates and totals are those of both ranks, printed once"
    assert two.count("2 ranks") == 2
    found, _ = CheckpointStore(tmp_path / "two", keep_last=2).newest_valid()
    assert found is not None
    assert (found.global_step, found.data_position) == (12, 12 * 64)
    assert found.config["environment"]["world_size"] == 2
