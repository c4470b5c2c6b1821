"""Two ranks compute what one does, and only the first one speaks and saves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perf.cli import EXIT_DONE, main
from perf.train.checkpoints import CheckpointStore

ROOT = Path(__file__).parents[2]
ARGUMENTS = [
    "--precision",
    "fp32",
    "--workload",
    "pico",
    "--global-batch-size",
    "64",
    "--micro-batch-size",
    "16",
    "--log-steps",
    "1",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def arguments(model_dir: Path, max_steps: int) -> list[str]:
    """Return a command of this project that trains."""
    return ["train", *ARGUMENTS, "--max-steps", str(max_steps), "--model-dir", str(model_dir)]


def two_ranks(model_dir: Path, max_steps: int) -> list[str]:
    """Return a command line that trains on two ranks, in processes of their own."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "perf"]
    return [sys.executable, "-m", *torchrun, *arguments(model_dir, max_steps)]


def train_on_two(model_dir: Path, max_steps: int) -> subprocess.CompletedProcess[str]:
    """Train on two ranks to the end."""
    return subprocess.run(
        two_ranks(model_dir, max_steps),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=6000,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A directory in which two ranks made eight steps, and what they said; each process says when it shuts down."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "sitecustomize.py").write_text("import atexit, os\natexit.register(os.write, 2, b'shut down\\n')\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(ENVIRONMENT, "PYTHONPATH", str(folder))
        done = train_on_two(folder / "run", 8)
    assert done.returncode == EXIT_DONE, done.stderr
    return folder / "run", done


def test_a_rank_ends_without_shutting_the_interpreter_down(
    trained: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """Threads of torch's abort a process that they meet shutting down; only torchrun's own process may."""
    assert trained[1].stderr.count("shut down") == 1


def losses(log: str) -> list[float]:
    """Return the loss of each step line."""
    return [float(loss) for loss in re.findall(r"^Step=\d+, Loss=([\d.]+),", log, flags=re.MULTILINE)]


def test_two_ranks_give_the_loss_curve_of_one(
    trained: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same global batch, split over two processes and averaged.

    Equal to rounding of fp32, also when one rank resumes.
    """
    folder, two = trained
    assert main(arguments(tmp_path / "one", 12)) == EXIT_DONE
    one = losses(capsys.readouterr().out)
    assert main(arguments(folder, 12)) == EXIT_DONE
    resumed = capsys.readouterr().out
    assert len(one) == 12
    assert losses(two.stdout) + losses(resumed) == pytest.approx(one, abs=1e-4)
    assert one[-1] < one[0]
    assert two.stdout.count("Processed 512 sample(s)") == 1, "rates and totals are those of both ranks, printed once"
    assert two.stdout.count("2 ranks") == 1
    assert "with world_size 2 -> 1 the losses can differ" in " ".join(resumed.split())
    found, _ = CheckpointStore(folder, keep_last=2).newest_valid()
    assert found is not None
    assert (found.facts.global_step, found.facts.data_position) == (12, 12 * 64)


def test_an_error_of_several_ranks_is_told_once(tmp_path: Path) -> None:
    """What the main rank finds stops the other one too: one line, and no traceback but torchrun's own."""
    damaged = tmp_path / "step-00000005"
    damaged.mkdir()
    done = train_on_two(tmp_path, 8)
    assert done.returncode != 0
    assert done.stderr.count("python -m perf train: error: ") == 1
    assert "no checkpoint here is whole" in done.stderr
    assert str(ROOT / "perf") not in done.stderr
    assert "Connection closed" not in done.stderr
    assert done.stdout == ""


def test_ctrl_c_stops_all_ranks_at_one_step_and_saves(tmp_path: Path) -> None:
    """A signal to all processes of the job, as a terminal sends it: they agree on a step, and the main one saves it."""
    with subprocess.Popen(
        two_ranks(tmp_path, 100_000),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as job:
        assert job.stdout is not None
        for line in job.stdout:
            if line.startswith("Step="):
                break
        os.killpg(job.pid, signal.SIGINT)
        out, err = job.communicate(timeout=600)
    (step,) = CheckpointStore(tmp_path, keep_last=2).steps()
    assert out.count(f"Global batch size 64 was stopped at step {step} of 100000.") == 1
    assert f"\nStep={step}, Loss=" in f"\n{out}"
    assert str(ROOT / "perf") not in err
