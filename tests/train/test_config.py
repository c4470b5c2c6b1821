"""A run is planned from its checkpoint and its limits, and refused with the reason where it cannot start."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest
import safetensors.torch
from safetensors import safe_open

from perf.errors import CheckpointError, PerfError, RunFinishedError
from perf.train import checkpoints
from perf.train.config import RunConfig, plan_run
from perf.train.data import SyntheticLanguage
from perf.train.devices import World
from perf.train.trainer import run_steps


class TwoRanks(World):
    """The main one of two ranks, without the other: what it decides is not sent anywhere."""

    def from_main(self, action: Callable[[], Any]) -> Any:
        """Run `action`."""
        return action()


def plan(config: RunConfig, world: World | None = None) -> Any:
    """Plan a run on the synthetic language."""
    with ExitStack() as held:
        return plan_run(config, SyntheticLanguage(config.workload, seed=config.seed), world or World(), held)


@pytest.fixture
def finished(run_config: RunConfig) -> RunConfig:
    """A run that has made its ten steps."""
    run_steps(plan(run_config), SyntheticLanguage(run_config.workload, seed=0), World(), on_line=lambda _: None)
    return run_config


@pytest.mark.parametrize(
    ("global_batch_size", "micro_batch_size", "ranks", "expected"),
    [
        (16, None, 1, (8, 2)),  # the workload's 8
        (4, None, 1, (4, 1)),  # less than the workload's
        (12, None, 1, (6, 2)),  # 8 does not divide 12, 6 does
        (7, None, 1, (7, 1)),
        (13, None, 1, (1, 13)),
        (32, None, 2, (8, 2)),
        (32, 2, 2, (2, 8)),
    ],
)
def test_a_step_is_cut_into_equal_micro_batches(
    run_config: RunConfig, global_batch_size: int, micro_batch_size: int | None, ranks: int, expected: tuple[int, int]
) -> None:
    """The largest micro-batch up to the workload's that divides a rank's share, or the one asked for."""
    config = msgspec.structs.replace(
        run_config, global_batch_size=global_batch_size, micro_batch_size=micro_batch_size, start="fresh"
    )
    planned = plan(config, TwoRanks(size=ranks))
    assert (planned.micro_batch_size, planned.grad_accum_steps) == expected


def test_batch_sizes_that_cannot_be_cut_are_refused(run_config: RunConfig) -> None:
    """The message names both numbers."""
    with pytest.raises(ValueError, match="--global-batch-size 15 is not a multiple of the 2 ranks"):
        plan(msgspec.structs.replace(run_config, global_batch_size=15, start="fresh"), TwoRanks(size=2))
    with pytest.raises(ValueError, match="--micro-batch-size 5 does not divide the 16 samples"):
        plan(msgspec.structs.replace(run_config, micro_batch_size=5))


def test_the_failure_of_the_reference_run_is_explained(finished: RunConfig) -> None:
    """Another batch size in the directory of a finished run.

    The published sentence, then what it needs to be understood.
    """
    other = msgspec.structs.replace(finished, global_batch_size=8)
    with pytest.raises(RuntimeError) as caught:
        plan(other)
    message = str(caught.value)
    assert message.startswith("Initial global step 10 already exceeds max step 10. ")
    for part in (
        str(finished.model_dir / "step-00000010"),
        "already finished",
        "with global batch size 16.",
        "another configuration than this run's: global_batch_size 16 -> 8",
        "--model-dir",
        "--max-steps",
        "--fresh",
    ):
        assert part in message
    fresh = plan(msgspec.structs.replace(other, start="fresh"))
    elsewhere = plan(msgspec.structs.replace(other, model_dir=finished.model_dir.with_name("gbs-8")))
    assert (fresh.start_step, fresh.last_step) == (elsewhere.start_step, elsewhere.last_step) == (0, 10)


def test_a_finished_run_is_finished_and_a_higher_target_continues_it(finished: RunConfig) -> None:
    """At its target there is nothing to do; with a higher one there is something left; with num_steps always."""
    with pytest.raises(PerfError, match="nothing to do"):
        plan(finished)
    further = plan(msgspec.structs.replace(finished, max_steps=15))
    assert (further.start_step, further.last_step) == (10, 15)
    assert further.notes == [f"resuming from {finished.model_dir / 'step-00000010'}"]
    more = plan(msgspec.structs.replace(finished, max_steps=None, num_steps=3))
    assert (more.start_step, more.last_step) == (10, 13)


def test_only_the_same_run_has_nothing_to_do(finished: RunConfig) -> None:
    """The plain case has a short line; a lower target or another configuration keeps the published sentence."""
    with pytest.raises(PerfError) as caught:
        plan(finished)
    assert str(caught.value) == (
        f"nothing to do at global batch size 16: {finished.model_dir / 'step-00000010'} has all 10 steps; "
        "to go on, give a higher --max-steps; to start over, give --fresh"
    )
    for changes, sentence in (
        ({"max_steps": 7}, "Initial global step 10 already exceeds max step 7. That run is already finished: "),
        ({"seed": 1}, "Initial global step 10 already exceeds max step 10. That run is already finished: "),
    ):
        with pytest.raises(RunFinishedError, match=f"^{re.escape(sentence)}"):
            plan(msgspec.structs.replace(finished, **changes))


@pytest.mark.parametrize("what", ["global_batch_size", "seed", "workload", "data"])
def test_a_directory_of_another_configuration_is_refused(finished: RunConfig, what: str) -> None:
    """Another batch size, seed, workload or data: the difference is named, and so are the three ways on."""
    source = SyntheticLanguage(finished.workload, seed=0)
    config = msgspec.structs.replace(finished, max_steps=20)
    if what == "global_batch_size":
        config, expected = msgspec.structs.replace(config, global_batch_size=8), "global_batch_size 16 -> 8"
    elif what == "seed":
        config, expected = msgspec.structs.replace(config, seed=7), "seed 0 -> 7"
    elif what == "workload":
        config = msgspec.structs.replace(config, workload=msgspec.structs.replace(config.workload, num_layers=1))
        expected = "num_layers 2 -> 1"
    else:
        source.identity = "another language"
        expected = "data synthetic language 1 -> another language"
    with pytest.raises(CheckpointError, match="written by another configuration") as caught:
        plan_run(config, source, World(), ExitStack())
    for part in (expected, "--model-dir", "--fresh", "--load weights", "step-00000010"):
        assert part in str(caught.value)
    assert str(caught.value).count(" -> ") == 1, "only what differs is named"


def test_how_a_run_is_run_may_change_and_is_told(finished: RunConfig) -> None:
    """Micro-batch size, intervals and precision are not what a run is: it resumes with others, and says so."""
    config = msgspec.structs.replace(finished, max_steps=20, micro_batch_size=4, log_steps=5, precision="bf16")
    planned = plan(config)
    assert planned.start_step == 10
    (note,) = planned.notes
    assert "with precision fp32 -> bf16, micro_batch_size 8 -> 4 the losses can differ" in note


def test_what_would_be_wasted_is_told(run_config: RunConfig) -> None:
    """Steps at learning rate 0 are noted before they run."""
    end = run_config.workload.lr_end_step
    (note,) = plan(msgspec.structs.replace(run_config, max_steps=end + 1)).notes
    assert f"the learning rate of small is 0 from step {end} on" in note
    assert plan(msgspec.structs.replace(run_config, max_steps=end)).notes == []


@pytest.mark.parametrize("start", ["resume", "fresh"])
def test_a_directory_that_cannot_be_used_is_told_before_training(run_config: RunConfig, start: Any) -> None:
    """A file in its place, or above it, is found when the run is planned; without checkpoints nothing is needed."""
    run_config.model_dir.touch()
    config = msgspec.structs.replace(run_config, start=start)
    with pytest.raises(OSError, match="File exists"):
        plan(config)
    with pytest.raises(OSError, match="Not a directory"):
        plan(msgspec.structs.replace(config, model_dir=run_config.model_dir / "below"))
    assert plan(msgspec.structs.replace(config, keep_checkpoints=0)).last_step == 10


def edit(run: RunConfig, **changes: Any) -> None:
    """Edit what a run's checkpoint says of itself, as somebody who knows its digest would."""
    path = run.model_dir / "step-00000010"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    facts = json.dumps({**json.loads(metadata["facts"]), **changes})
    checkpoints._write(path, {**metadata, "facts": facts}, safetensors.torch.load_file(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_position": 7}, "data_position is 7, and 160 is needed"),
        ({"data_position": "160"}, r"Expected `int`, got `str` - at `\$.data_position`; it was edited"),
        ({"global_step": None}, r"Expected `int`, got `null` - at `\$.global_step`; it was edited"),
        ({"global_step": True}, r"Expected `int`, got `bool` - at `\$.global_step`"),
        ({"identity": [1]}, r"Expected `object`, got `array` - at `\$.identity`"),
        ({"environment": "cpu"}, r"Expected `object`, got `str` - at `\$.environment`"),
        ({"identity": {}}, "another configuration: workload not set -> small"),
    ],
)
def test_an_edited_checkpoint_is_refused_though_its_digest_matches(
    finished: RunConfig, changes: dict[str, Any], message: str
) -> None:
    """Wrongly typed fields are each told by name, whether or not the run would have been finished."""
    edit(finished, **changes)
    with pytest.raises(CheckpointError, match=message):
        plan(msgspec.structs.replace(finished, max_steps=20))
    if "data_position" not in changes and changes != {"identity": {}}:
        with pytest.raises(CheckpointError, match=message):
            plan(finished)


def test_weights_need_a_checkpoint(run_config: RunConfig) -> None:
    """Asking for weights where there are none is an error, not a start from random ones."""
    with pytest.raises(CheckpointError, match="no checkpoint to load weights from; name"):
        plan(msgspec.structs.replace(run_config, start="weights"))


@pytest.mark.parametrize(("name", "value"), [("global_batch_size", 2**24 + 1), ("seed", 2**63)])
def test_numbers_beyond_reason_are_refused(run_config: RunConfig, name: str, value: int) -> None:
    """A batch that fits no memory and a seed that fits no generator are refused when the configuration is made."""
    changes: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name}={value}: at most"):
        msgspec.structs.replace(run_config, **changes)
