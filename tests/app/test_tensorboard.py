"""`train --tensorboard` writes what the log says, under the names that users of the reference stack know."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from perf.cli import main

COMMAND = ["train", "--workload", "pico", "--global-batch-size", "8", "16", "--max-steps", "6", "--log-steps", "2"]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a command that trains in seconds, in a project of its own."""
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    return [*COMMAND, "--tensorboard", str(tmp_path / "board")]


def test_the_scalars_are_those_of_the_log(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run for each batch size; each has a value at each log line."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    assert main(command) == 0
    losses = [float(loss) for loss in re.findall(r"^Step=\d+, Loss=([\d.]+)", capsys.readouterr().out, re.MULTILINE)]
    assert len(losses) == 6
    for size, logged in ((8, losses[:3]), (16, losses[3:])):
        found = accumulator.EventAccumulator(str(tmp_path / "board" / f"gbs-{size}"))
        found.Reload()
        names = {"loss", "local_samples_per_sec", "avg_samples_per_sec", "avg_steps_per_sec", "lr"}
        assert set(found.Tags()["scalars"]) == names
        assert [(event.step, round(event.value, 5)) for event in found.Scalars("loss")] == [
            (step, pytest.approx(loss, abs=1e-4)) for step, loss in zip((2, 4, 6), logged, strict=True)
        ]
        steps, samples = (found.Scalars(f"avg_{what}_per_sec")[-1].value for what in ("steps", "samples"))
        assert samples == pytest.approx(size * steps)
        assert found.Scalars("lr")[0].value == pytest.approx(4e-3 * 2 / 20)


def test_without_the_package_nothing_is_trained(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error says what to install."""
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert main(command) == 2
    captured = capsys.readouterr()
    assert "pip install 'stepmark[tensorboard]'" in captured.err
    assert "Step=" not in captured.out
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize("file", ["board", "board/gbs-16"])
def test_a_directory_that_cannot_be_written_is_told_before_any_training(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    """A file stands where the directory of all runs, or of the second one, should be."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert main(command) == 3
    captured = capsys.readouterr()
    assert str(tmp_path / file) in captured.err
    assert "Step=" not in captured.out
