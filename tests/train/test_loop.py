"""A run logs, saves, resumes and stops as it says, and a resumed run is the uninterrupted one bit for bit."""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perf.errors import CheckpointError, NonFiniteError, PerfError
from perf.seam import Case
from perf.train import trainer
from perf.train.checkpoints import CheckpointStore
from perf.train.config import RunConfig, plan_run
from perf.train.data import Batch, SyntheticLanguage
from perf.train.devices import World
from perf.train.trainer import RunResult, run_steps
from perf.train.workloads import BertConfig


class RecordingSource(SyntheticLanguage):
    """Notes which samples were drawn."""

    def __init__(self, workload: BertConfig, *, seed: int) -> None:
        super().__init__(workload, seed=seed)
        self.drawn: list[tuple[int, int]] = []

    def batch(self, *, position: int, num_samples: int) -> Batch:
        """Draw and note."""
        self.drawn.append((position, num_samples))
        return super().batch(position=position, num_samples=num_samples)


def train(config: RunConfig, **hooks: Any) -> tuple[RunResult, list[str], RecordingSource]:
    """Run `config`; return its result, its log and its source."""
    source = RecordingSource(config.workload, seed=config.seed)
    lines: list[str] = []
    with ExitStack() as held:
        plan = plan_run(config, source, World(), held)
        result = run_steps(plan, source, World(), on_line=lines.append, **hooks)
    return result, lines, source


def store_of(config: RunConfig) -> CheckpointStore:
    """Return the checkpoints of a run."""
    return CheckpointStore(config.model_dir, keep_last=config.keep_checkpoints)


def state_of(config: RunConfig) -> dict[str, torch.Tensor]:
    """Return every tensor of the checkpoint of a run's end."""
    found, _ = store_of(config).newest_valid()
    assert found is not None
    assert found.facts.global_step == config.max_steps
    return safetensors.torch.load_file(found.path)


def without_rates(lines: list[str]) -> list[str]:
    """Return step lines up to their loss: all that two runs must have in common."""
    return [line.split(", Rate=")[0] for line in lines if line.startswith("Step=")]


@pytest.mark.parametrize("first", [1, 4, 5, 9])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(run_config: RunConfig, first: int) -> None:
    """Stopped after any step and resumed: the same losses, log lines, samples, weights and optimizer state."""
    whole, whole_lines, whole_source = train(run_config)
    split = msgspec.structs.replace(run_config, model_dir=run_config.model_dir.with_name("split"))
    one, one_lines, one_source = train(msgspec.structs.replace(split, max_steps=first))
    two, two_lines, two_source = train(split)
    assert (len(two.losses), two.end_step) == (10 - first, 10)
    assert one.losses + two.losses == whole.losses
    logged = without_rates(one_lines) + without_rates(two_lines)
    assert set(without_rates(whole_lines)) <= set(logged)
    # The first draw of a run is its warm-up's.
    assert one_source.drawn[1:] + two_source.drawn[1:] == whole_source.drawn[1:]
    expected, found = state_of(run_config), state_of(split)
    assert set(expected) == set(found)
    assert any(name.startswith("optimizer.exp_avg_sq.") for name in expected)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_two_runs_of_one_configuration_are_equal_and_another_seed_is_not(run_config: RunConfig) -> None:
    """The seed decides the whole run."""
    results = [
        train(msgspec.structs.replace(run_config, model_dir=run_config.model_dir.with_name(str(i)), seed=seed))[0]
        for i, seed in enumerate([0, 0, 1])
    ]
    assert results[0].losses == results[1].losses
    assert results[0].losses != results[2].losses


def test_the_loss_falls(run_config: RunConfig, workload: BertConfig) -> None:
    """A short run learns: the last losses lie well below those it began with."""
    learner = msgspec.structs.replace(workload, dropout=0.0, learning_rate=2e-2, lr_warmup_steps=5)
    result, _, _ = train(msgspec.structs.replace(run_config, workload=learner, global_batch_size=64, max_steps=60))
    assert sum(result.losses[-5:]) / 5 < 0.85 * sum(result.losses[:5]) / 5


def test_count_and_time_come_from_the_same_marks(run_config: RunConfig) -> None:
    """With a clock that ticks once per reading.

    One mark before the first step, one per log line, and rates from them.
    """
    ticks = iter(range(100, 200))
    result, lines, _ = train(run_config, clock=lambda: float(next(ticks)))
    assert (result.totals.samples, result.totals.seconds) == (160, 5.0)
    assert all("Rate=32.00 samples/sec, GlobalRate=32.00 samples/sec" in line for line in lines[:5])
    assert lines[5:] == ["Processed 160 sample(s) in 5.000000000 seconds."]
    assert [int(re.findall(r"Step=(\d+)", line)[0]) for line in lines[:5]] == [2, 4, 6, 8, 10]


def test_warm_up_and_set_up_are_not_timed_and_work_between_marks_is(
    run_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual clock advanced by the work itself: 1 s per step, 100 s per warm-up and per checkpoint."""
    now = 0.0

    def taking(seconds: float, real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal now
            now += seconds
            return real(*args, **kwargs)

        return run

    monkeypatch.setattr(trainer.Trainer, "warm_up", taking(100, trainer.Trainer.warm_up))
    monkeypatch.setattr(trainer.Trainer, "step", taking(1, trainer.Trainer.step))
    monkeypatch.setattr(trainer.Trainer, "save_in", taking(100, trainer.Trainer.save_in))
    result, _, _ = train(run_config, clock=lambda: now)
    assert result.totals.seconds == 10.0, "the last checkpoint follows the last mark"
    saving = msgspec.structs.replace(run_config, model_dir=run_config.model_dir.with_name("saving"), checkpoint_steps=5)
    result, _, _ = train(saving, clock=lambda: now)
    assert result.totals.seconds == 110.0, "a checkpoint on the way is part of the time it took"


def test_the_device_is_waited_for_before_the_clock_is_read(
    run_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading follows a synchronization, with nothing in between."""
    events: list[str] = []
    monkeypatch.setattr("perf.train.trainer.synchronize", lambda device: events.append("sync"))
    real = trainer.Trainer.step
    monkeypatch.setattr(trainer.Trainer, "step", lambda self: (events.append("step"), real(self))[1])

    def clock() -> float:
        events.append("clock")
        return float(len(events))

    train(run_config, clock=clock)
    assert events == ["sync", "clock", *(["step"] * 2 + ["sync", "clock"]) * 5]


def test_the_last_step_is_logged_and_saved_whatever_the_intervals(run_config: RunConfig) -> None:
    """Ten steps, a line every four and a checkpoint every three: both also at ten."""
    result, lines, _ = train(msgspec.structs.replace(run_config, log_steps=4, checkpoint_steps=3, keep_checkpoints=9))
    assert [line.split(",")[0] for line in lines[:-1]] == ["Step=4", "Step=8", "Step=10"]
    assert store_of(run_config).steps() == [3, 6, 9, 10]
    assert len(result.losses) == 10
    assert result.totals.samples == 160


def test_keeping_no_checkpoint_writes_none(run_config: RunConfig) -> None:
    """With 0 to keep, not even the directory is made."""
    train(msgspec.structs.replace(run_config, keep_checkpoints=0, checkpoint_steps=1))
    assert not run_config.model_dir.exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    run_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is named though its loss is only read at the next log line, and nothing is saved after it."""
    real = trainer.train_step
    monkeypatch.setattr(
        trainer, "train_step", lambda model, *a, **k: real(model, *a, **k) * (float("nan") if k["lr"] == bad else 1.0)
    )
    bad = trainer.learning_rate(run_config.workload, 5)
    with pytest.raises(NonFiniteError, match=r"Step=5: the loss is nan"):
        train(msgspec.structs.replace(run_config, log_steps=4, checkpoint_steps=4))
    assert store_of(run_config).steps() == [4]


def test_a_weight_that_is_not_finite_is_not_saved(run_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient that overflows spoils the weights while the loss of its step is fine.

    No checkpoint is made of them.
    """
    real = trainer.train_step

    def spoil(model: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = real(model, *args, **kwargs)
        if kwargs["lr"] == trainer.learning_rate(run_config.workload, 8):
            with torch.no_grad():
                next(model.parameters()).view(-1)[0] = float("inf")
        return loss

    monkeypatch.setattr(trainer, "train_step", spoil)
    with pytest.raises(NonFiniteError, match="Step=8: a weight is not finite after the update"):
        train(msgspec.structs.replace(run_config, checkpoint_steps=4))
    assert store_of(run_config).steps() == [4]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_request_finishes_the_step_and_saves(run_config: RunConfig, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM or a lost terminal between steps 3 and 4.

    Step 4 is finished, logged and saved, and the run can go on.
    """
    whole, _, _ = train(msgspec.structs.replace(run_config, model_dir=run_config.model_dir.with_name("whole")))
    steps = 0

    def on_step() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    result, lines, _ = train(run_config, on_step=on_step)
    assert signal.getsignal(number) is before, "handlers are put back"
    assert result.interrupted
    assert (result.end_step, store_of(run_config).steps()) == (4, [4])
    assert lines[-1].startswith("Processed 64 sample(s)")
    rest, _, _ = train(run_config)
    assert not rest.interrupted
    assert result.losses + rest.losses == whole.losses


def test_a_stop_request_in_the_last_step_is_not_forgotten(run_config: RunConfig) -> None:
    """The run is complete, but whoever asked does not want the next one to start."""
    steps = 0

    def on_step() -> None:
        nonlocal steps
        steps += 1
        if steps == 9:
            os.kill(os.getpid(), signal.SIGINT)

    result, _, _ = train(run_config, on_step=on_step)
    assert (result.end_step, result.interrupted) == (10, True)


def test_a_stop_request_during_the_last_save_is_not_forgotten(
    run_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing a large checkpoint takes time: a Ctrl-C then still keeps the next run from starting."""
    real = trainer.Trainer.save_in

    def save_in(*args: Any, **recorded: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        real(*args, **recorded)

    monkeypatch.setattr(trainer.Trainer, "save_in", save_in)
    result, _, _ = train(run_config)
    assert (result.end_step, result.interrupted) == (10, True)
    assert store_of(run_config).steps() == [10]


def test_a_second_ctrl_c_stops_at_once(run_config: RunConfig) -> None:
    """Whoever presses twice does not want to wait for the step."""

    def on_step() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(run_config, on_step=on_step)


def test_fresh_and_weights_begin_at_step_0_and_lose_nothing(run_config: RunConfig) -> None:
    """Fresh starts from new weights, `weights` from the newest ones.

    Each keeps what was there before, however often.
    """
    first, _, _ = train(run_config)
    again, lines, source = train(msgspec.structs.replace(run_config, start="fresh"))
    assert again.losses == first.losses
    assert lines[0].endswith(f"were moved to {run_config.model_dir / 'previous-1'}")
    other = msgspec.structs.replace(run_config, global_batch_size=8, start="weights", max_steps=4)
    for _ in range(2):
        taken, _, source = train(other)
        assert (len(taken.losses), taken.end_step) == (4, 4)
        assert source.drawn[1] == (0, 8), "the data starts from the beginning"
        assert taken.losses[0] < first.losses[0]
    kept = [CheckpointStore(run_config.model_dir / f"previous-{n}", keep_last=1).steps() for n in (1, 2, 3)]
    assert kept == [[10], [10], [4]]
    assert store_of(run_config).steps() == [4]


def test_a_log_that_nobody_takes_stops_the_run_and_saves(run_config: RunConfig) -> None:
    """A closed pipe or a full disk under the log loses the log, not the training."""
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        raise BrokenPipeError

    source = SyntheticLanguage(run_config.workload, seed=0)
    with ExitStack() as held:
        result = run_steps(plan_run(run_config, source, World(), held), source, World(), on_line=on_line)
    assert result.interrupted
    assert (result.end_step, store_of(run_config).steps()) == (3, [3])


def test_two_runs_do_not_share_a_directory(run_config: RunConfig) -> None:
    """From its plan to its end a run has the directory for itself, however another would start; then that can."""
    source = RecordingSource(run_config.workload, seed=0)
    with ExitStack() as held:
        plan = plan_run(run_config, source, World(), held)
        for start in ("resume", "fresh", "weights"):
            with pytest.raises(CheckpointError, match="another run is using it"):
                train(msgspec.structs.replace(run_config, start=start))
        run_steps(plan, source, World())
        with pytest.raises(CheckpointError, match="another run is using it"):
            train(msgspec.structs.replace(run_config, start="fresh"))
        assert store_of(run_config).steps() == [10]
    rest, _, _ = train(msgspec.structs.replace(run_config, max_steps=12))
    assert len(rest.losses) == 2


def test_what_is_damaged_is_set_aside_in_a_directory_that_is_held(run_config: RunConfig) -> None:
    """A run that holds its directory need not hold it again; one that keeps no checkpoints holds it only for that."""
    for keep, expected in ((2, [2, 10]), (0, [2])):
        train(msgspec.structs.replace(run_config, start="fresh", checkpoint_steps=2, max_steps=4))
        store_of(run_config).path(4).write_bytes(b"")
        train(msgspec.structs.replace(run_config, keep_checkpoints=keep))
        assert store_of(run_config).steps() == expected
        assert (run_config.model_dir / "damaged-step-00000004-1").exists()


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_a_run_ends_when_its_directory_vanishes(run_config: RunConfig, replaced: bool) -> None:
    """The directory is not made again without its lock: the next save ends the run, and another run's files stay."""
    model_dir = run_config.model_dir

    def on_step() -> None:
        if model_dir.exists() and store_of(run_config).steps() == [2]:
            model_dir.rename(model_dir.with_name("moved"))
            if replaced:
                model_dir.mkdir()

    with pytest.raises(CheckpointError, match="was deleted or replaced during the run, so step 4 was not saved"):
        train(msgspec.structs.replace(run_config, checkpoint_steps=2), on_step=on_step)
    assert CheckpointStore(model_dir.with_name("moved"), keep_last=2).steps() == [2]
    assert list(model_dir.glob("*")) == []
    assert model_dir.exists() == replaced


def test_a_resumed_optimizer_counts_the_steps_of_the_checkpoint(run_config: RunConfig) -> None:
    """Its count is not stored: it follows from the step."""
    _, _, source = train(run_config)
    found, _ = store_of(run_config).newest_valid()
    assert found is not None
    trained = trainer.Trainer(run_config.workload, Case(global_batch_size=16, micro_batch_size=8), source)
    trainer.load_tensors(found, trained.model, trained.optimizer)
    assert {state["step"].item() for state in trained.optimizer.state.values()} == {10.0}
    assert {state["step"].dtype for state in trained.optimizer.state.values()} == {torch.float32}


def test_an_ignored_signal_stays_ignored(run_config: RunConfig) -> None:
    """Under nohup a lost terminal is no reason to stop."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result, _, _ = train(run_config, on_step=lambda: os.kill(os.getpid(), signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (result.end_step, result.interrupted) == (10, False)


def test_torch_compile_is_asked_for_and_used(run_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option reaches the model before its first step (compilation itself is torch's; it takes a C++ compiler)."""
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    train(msgspec.structs.replace(run_config, max_steps=1))
    assert compiled == []
    result, _, _ = train(msgspec.structs.replace(run_config, max_steps=2, compile=True))
    assert len(compiled) == 1
    assert len(result.losses) == 1


@given(cuts=st.lists(st.integers(1, 12), max_size=4), every=st.integers(1, 5))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_step_is_lost_or_repeated_however_a_run_is_cut(run_config: RunConfig, cuts: list[int], every: int) -> None:
    """Any sequence of targets, rising or not, makes each step once, in order, with the samples that belong to it."""
    with tempfile.TemporaryDirectory() as directory:
        config = msgspec.structs.replace(run_config, model_dir=Path(directory), checkpoint_steps=every)
        whole, _, whole_source = train(msgspec.structs.replace(config, keep_checkpoints=0, max_steps=12))
        losses: list[float] = []
        drawn: list[tuple[int, int]] = []
        for target in [*cuts, 12]:
            if target <= len(losses):
                with pytest.raises(PerfError):
                    train(msgspec.structs.replace(config, max_steps=target))
                continue
            part, _, source = train(msgspec.structs.replace(config, max_steps=target))
            losses += part.losses
            drawn += source.drawn[1:]
        assert losses == whole.losses
        assert drawn == whole_source.drawn[1:]


def test_every_step_and_rank_has_a_seed_of_its_own() -> None:
    """No two draw the same dropout, and each draws the same every time."""
    seeds = [trainer.step_seed(s, step, rank) for s in range(2) for step in range(50) for rank in range(4)]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [trainer.step_seed(s, step, rank) for s in range(2) for step in range(50) for rank in range(4)]
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_checkpoint_of_another_model_changes_nothing(run_config: RunConfig, workload: BertConfig) -> None:
    """Tensors that do not fit are named, with what was found and needed, before any is loaded."""
    train(run_config)
    for changes, found in (
        ({"num_layers": 3}, "has nothing under 'model.layers.2"),
        ({"num_layers": 1}, "the model needs nothing"),
        (
            {"intermediate_size": 64},
            r"torch.float32 \[32, 16\] under 'model.layers.0.intermediate.weight', "
            r"the model needs torch.float32 \[64, 16\]",
        ),
    ):
        other = msgspec.structs.replace(
            run_config, workload=msgspec.structs.replace(workload, **changes), start="weights"
        )
        with pytest.raises(CheckpointError, match=found):
            train(other)
        assert store_of(run_config).steps() == [10], "the directory was not moved away"
