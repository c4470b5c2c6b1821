"""What a run is asked to do, what it therefore plans, and what its checkpoints record of both."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from msgspec import Struct
from msgspec.structs import asdict, replace

from perf.errors import CheckpointError, PerfError, RunFinishedError
from perf.records.sessions import differences
from perf.train.checkpoints import EDITED, Checkpoint, CheckpointStore
from perf.train.data import Source
from perf.train.devices import World
from perf.train.stepping import steps_to_run
from perf.train.workloads import BertConfig, bert_workload


class RunConfig(Struct, frozen=True, kw_only=True):
    """One run: a workload at one global batch size."""

    workload: BertConfig  # what to train
    global_batch_size: int  # samples per optimizer step, over all ranks
    model_dir: Path  # where its checkpoints are
    device: torch.device  # where to compute
    precision: str  # "fp32" or "bf16"
    # samples per forward pass; None for the workload's, or less where that does not divide
    micro_batch_size: int | None = None
    seed: int = 0  # of the weights, the data and the dropout
    max_steps: int | None = None  # the step to stop at; see `perf.train.stepping.steps_to_run`
    num_steps: int | None = None  # how many steps to make
    log_steps: int  # a log line every so many steps, and at the last
    checkpoint_steps: int | None = None  # a checkpoint every so many steps, and at the last; None for the last only
    keep_checkpoints: int = 2  # how many to keep; with 0 none is written
    # "resume" from the newest valid checkpoint; "fresh" puts the checkpoints there away; "weights" does that too but
    # begins with the newest one's weights
    start: Literal["resume", "fresh", "weights"] = "resume"
    compile: bool = False  # whether to run the model through torch.compile

    def __post_init__(self) -> None:
        for name, most in (("global_batch_size", 2**24), ("seed", 2**63 - 1)):
            if getattr(self, name) > most:
                raise ValueError(f"{name}={getattr(self, name)}: at most {most} is possible")


class RunPlan(Struct, frozen=True, kw_only=True):
    """A run that can start: what it resumes from, how far it goes, and how a step is cut."""

    config: RunConfig  # what was asked for
    store: CheckpointStore  # its checkpoints, which the main rank holds
    checkpoint: Checkpoint | None  # what to load; None to begin with new weights
    start_step: int  # `global_step` before the first step
    last_step: int  # `global_step` after the last
    micro_batch_size: int  # samples per forward pass
    grad_accum_steps: int  # forward passes per step and rank
    recorded: dict[str, dict[str, Any]]  # the `identity` and the `environment` of its checkpoints (`Facts`)
    notes: list[str]  # what the user should know before it starts


def plan_run(config: RunConfig, source: Source, world: World, held: ExitStack) -> RunPlan:
    """Find out where a run starts and how far it goes, so that one that cannot run is reported before any starts.

    Its directory is made where it is missing, and no other run uses it until `held` ends; damaged checkpoints are set
    aside. With no checkpoints to keep, neither is needed.

    Raises:
        ValueError: the batch size cannot be divided, or there is no limit.
        PerfError: its checkpoint is of this very run's last step.
        RunFinishedError: its checkpoint has already reached `max_steps` otherwise.
        CheckpointError: its checkpoint is of another configuration, none is whole, or another run has the directory.
        OSError: its directory cannot be written to.
        MainRankError: on the other ranks, any of these on the main one.
    """
    return replace(world.from_main(lambda: _plan(config, source, world, held)), config=config)


def _plan(config: RunConfig, source: Source, world: World, held: ExitStack) -> RunPlan:
    micro_batch_size, grad_accum_steps = _divide(config, world)
    identity, store = _identity(config, source), CheckpointStore(config.model_dir, keep_last=config.keep_checkpoints)
    environment = {
        "device": config.device.type,
        "precision": config.precision,
        "compiled": config.compile,
        "micro_batch_size": micro_batch_size,
        "world_size": world.size,
        "num_threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
    if config.keep_checkpoints > 0:
        held.enter_context(store.claim())
    checkpoint, notes = (None, []) if config.start == "fresh" else store.newest_valid()
    if config.start == "weights" and checkpoint is None:
        raise CheckpointError(f"{config.model_dir}: has no checkpoint to load weights from; name another --model-dir")
    resumed = checkpoint if config.start == "resume" else None
    start_step = resumed.facts.global_step if resumed else 0
    other_run = ", ".join(differences(resumed.facts.identity, identity)) if resumed else ""
    try:
        num_steps = steps_to_run(global_step=start_step, num_steps=config.num_steps, max_steps=config.max_steps)
    except RunFinishedError as error:
        assert resumed is not None  # a run from step 0 cannot have finished
        raise _refusal(error, config, resumed, other_run) from None
    if resumed is not None:
        _require_same_run(config, resumed, other_run)
        different = ", ".join(differences(resumed.facts.environment, environment))
        so = f"; with {different} the losses can differ from an uninterrupted run's" if different else ""
        notes.append(f"resuming from {resumed.path}{so}")
    workload, last_step = config.workload, start_step + num_steps
    if last_step > workload.lr_end_step:
        notes.append(f"the learning rate of {workload.name} is 0 from step {workload.lr_end_step} on")
    return RunPlan(
        config=config,
        store=store,
        checkpoint=checkpoint,
        start_step=start_step,
        last_step=last_step,
        micro_batch_size=micro_batch_size,
        grad_accum_steps=grad_accum_steps,
        recorded={"identity": identity, "environment": environment},
        notes=notes,
    )


def _divide(config: RunConfig, world: World) -> tuple[int, int]:
    """Return the micro-batch size and the number of micro-batches per rank and step. Raises ValueError: no such cut."""
    rank_samples, rest = divmod(config.global_batch_size, world.size)
    if rest:
        raise ValueError(
            f"--global-batch-size {config.global_batch_size} is not a multiple of the {world.size} ranks that share it"
        )
    micro_batch_size = config.micro_batch_size or bert_workload(config.workload).micro_batch_size_of(rank_samples)
    if rank_samples % micro_batch_size:
        raise ValueError(
            f"--micro-batch-size {micro_batch_size} does not divide the {rank_samples} samples of a step on one rank"
        )
    return micro_batch_size, rank_samples // micro_batch_size


def _identity(config: RunConfig, source: Source) -> dict[str, Any]:
    how_it_is_run = {"why", "micro_batch_size", "global_batch_sizes", "max_steps", "log_steps"}
    workload = asdict(config.workload)
    return {
        "workload": workload.pop("name"),
        "global_batch_size": config.global_batch_size,
        "seed": config.seed,
        "data": source.identity,
        **{name: value for name, value in workload.items() if name not in how_it_is_run},
    }


def _refusal(error: RunFinishedError, config: RunConfig, checkpoint: Checkpoint, different: str) -> PerfError:
    """Return `error` with the reason, and with the ways on."""
    wrote = checkpoint.facts.identity
    if not different and error.global_step == error.max_steps:
        return PerfError(
            f"nothing to do at global batch size {config.global_batch_size}: {checkpoint.path} has all "
            f"{error.max_steps} steps; to go on, give a higher --max-steps; to start over, give --fresh"
        )
    unlike = f" That is another configuration than this run's: {different}." if different else ""
    details = (
        f"That run is already finished: {checkpoint.path} was written at step {error.global_step} by "
        f"{wrote.get('workload')} with global batch size {wrote.get('global_batch_size')}.{unlike} Three ways on: "
        "another directory (--model-dir DIR), a higher target for the same configuration (--max-steps N), or a fresh "
        "start (--fresh)."
    )
    return RunFinishedError(global_step=error.global_step, max_steps=error.max_steps, details=details)


def _require_same_run(config: RunConfig, checkpoint: Checkpoint, different: str) -> None:
    facts = checkpoint.facts
    if different:
        raise CheckpointError(
            f"{checkpoint.path}: written by another configuration: {different}; name another --model-dir, "
            "start over with --fresh, or begin at step 0 with its weights with --load weights"
        )
    expected = facts.global_step * config.global_batch_size
    if facts.data_position != expected:
        raise CheckpointError(
            f"{checkpoint.path}: data_position is {facts.data_position}, and {expected} is needed (global_step x "
            f"global batch size); {EDITED}"
        )
