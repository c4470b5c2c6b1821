"""Anyone's step on several ranks: each gets its rank, and one prints the lines of a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perf.logs.parsing import parse_log
from perf.logs.runlog import LoggedRun

ROOT = Path(__file__).parents[2]
NET = '''
import torch
import torch.distributed as dist
import perf

@perf.workload(global_batch_sizes=(8,))
def net(case):
    """A step whose loss is its rank."""
    share = case.global_batch_size // case.world_size
    if case.world_size > 1:
        assert (dist.get_rank(), dist.get_world_size()) == (case.rank, case.world_size)
        assert share == 4
    return lambda: torch.tensor(float(case.rank))
'''


def run(*arguments: str, folder: Path, ranks: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the module, under torchrun if ranks are asked for."""
    (folder / "bench_net.py").write_text(NET)
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}"] if ranks else []
    command = [sys.executable, *launcher, "-m", "perf.runner.ranks", *arguments]
    environ = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("ranks", "loss"), [(0, 0.0), (2, 0.5)])
def test_a_step_is_made_on_each_rank_and_logged_once(ranks: int, loss: float, tmp_path: Path) -> None:
    """The loss in the log is the mean over the ranks, and there is one run of four log windows."""
    asked = ["bench_net.py:net", "--global-batch-size", "8", "--num-steps", "8", "--log-steps", "2", "--device", "cpu"]
    found = run(*asked, folder=tmp_path, ranks=ranks)
    assert found.returncode == 0, found.stderr
    (one,) = parse_log(found.stdout.splitlines())
    assert isinstance(one, LoggedRun)
    assert [line.global_step for line in one.lines] == [2, 4, 6, 8]
    assert {line.loss for line in one.lines} == {loss}
    assert one.num_repeated == 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("bench_net.py:nut", "--global-batch-size", "8", "--num-steps", "8"), "has no workload nut"),
        (("bench_net.py:net", "--global-batch-size", "8", "--num-steps", "9", "--log-steps", "2"), "divide 9 steps"),
    ],
)
def test_what_cannot_be_run_is_told_in_a_line(asked: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """With the exit code of a problem and without a traceback."""
    found = run(*asked, folder=tmp_path)
    assert found.returncode == 3
    assert said in found.stderr
    assert "Traceback" not in found.stderr
