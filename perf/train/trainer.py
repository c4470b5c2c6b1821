"""The training of a run: its state (model, optimizer, data position), and the loop that steps, marks, logs, saves."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.torch
import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from perf.errors import CheckpointError, NonFiniteError
from perf.logs.runlog import EndLine, LogLine, Mark, Rates
from perf.seam import Case
from perf.signals import stop_requests
from perf.train.checkpoints import Checkpoint, CheckpointStore, Facts
from perf.train.config import RunPlan
from perf.train.data import Batch, Source, SyntheticLanguage
from perf.train.devices import World, keep_freed_memory, seed_device, synchronize
from perf.train.kernel import BertForPreTraining, accumulate_gradients, learning_rate, make_optimizer, train_step
from perf.train.stepping import WAYS_ON, Stepping, should_act
from perf.train.workloads import BertConfig


class Trainer:
    """A model in training, and a step of the seam. Rate, dropout and data follow from the seed and the step alone."""

    def __init__(
        self, workload: BertConfig, case: Case, source: Source, *, start_step: int = 0, compiled: bool = False
    ) -> None:
        self._workload, self._case, self._source = workload, case, source
        self._device = torch.device(case.device)
        torch.manual_seed(case.seed)
        self.model = BertForPreTraining(workload).to(self._device)  # plain, whatever wraps it for several ranks
        self.optimizer = make_optimizer(self.model, workload)
        self.global_step = start_step  # optimizer steps completed
        self.data_position = start_step * case.global_batch_size  # the number of the next sample
        if compiled:
            self.model.compile()
        self._ranks: nn.Module = DistributedDataParallel(self.model) if case.world_size > 1 else self.model

    def warm_up(self) -> None:
        """Run one forward and backward pass and drop its gradients: memory and compilation, but no progress."""
        size = self._case.micro_batch_size
        micro_batch = self._draw().slice(0, size)
        accumulate_gradients(self._ranks, micro_batch, micro_batch_size=size, precision=self._case.precision)
        self.optimizer.zero_grad(set_to_none=True)

    def step(self) -> Tensor:
        """Complete one optimizer step and return its mean loss on this rank (nats, no dimensions); no host sync."""
        case, workload = self._case, self._workload
        self.global_step += 1
        seed_device(self._device, step_seed(case.seed, self.global_step, case.rank))
        loss = train_step(
            self._ranks,
            self.optimizer,
            self._draw(),
            micro_batch_size=case.micro_batch_size,
            precision=case.precision,
            lr=learning_rate(workload, self.global_step),
            max_grad_norm=workload.max_grad_norm,
        )
        self.data_position += case.global_batch_size
        return loss

    __call__ = step  # a step of the seam

    def save_in(self, store: CheckpointStore, **recorded: dict[str, Any]) -> None:
        """Write a checkpoint of this moment; `recorded` are the other fields of its `Facts`.

        Raises:
            NonFiniteError: a weight is NaN or infinite: a gradient overflowed though the loss did not.
            CheckpointError, OSError: it could not be written.
        """
        tensors = state_tensors(self.model, self.optimizer)
        if not torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).all():
            raise NonFiniteError(f"Step={self.global_step}: a weight is not finite after the update; {WAYS_ON}")
        store.save(Facts(global_step=self.global_step, data_position=self.data_position, **recorded), tensors)

    def _draw(self) -> Batch:
        rank_samples = self._case.global_batch_size // self._case.world_size
        position = self.data_position + self._case.rank * rank_samples
        return self._source.batch(position=position, num_samples=rank_samples).to(self._device)


def measured_trainer(config: BertConfig, case: Case, source: Source | None = None) -> Trainer:
    """Return a warmed-up trainer of a case, on the synthetic language or on `source`."""
    trainer = Trainer(config, case, source or SyntheticLanguage(config, seed=case.seed))
    trainer.warm_up()
    return trainer


def step_seed(seed: int, global_step: int, rank: int) -> int:
    """Return the seed of everything random inside a step (dropout): other in each step and rank, the same on resume."""
    return int(np.random.SeedSequence([seed, global_step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """Return weights and optimizer state by name, as they are (not copies); None for weights alone.

    The optimizer's count of steps is not among them: it follows from `global_step`.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        if optimizer is not None:
            state: dict[str, Tensor] = optimizer.state[parameter]
            tensors.update({f"optimizer.{key}.{name}": state[key] for key in ("exp_avg", "exp_avg_sq")})
    return tensors


def load_tensors(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """Load the weights of a checkpoint, and its optimizer state unless `optimizer` is None.

    Raises:
        CheckpointError: names, shapes or types do not fit the model; no weight was changed.
    """
    found = safetensors.torch.load_file(checkpoint.path)
    if optimizer is None:
        found = {name: tensor for name, tensor in found.items() if not name.startswith("optimizer.")}
    else:
        for p in model.parameters():
            step = torch.full((), checkpoint.facts.global_step, dtype=torch.float32, device=p.device)
            optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    targets = state_tensors(model, optimizer)
    for name in {**targets, **found}:
        forms = [f"{t[name].dtype} {list(t[name].shape)}" if name in t else "nothing" for t in (found, targets)]
        if forms[0] != forms[1]:
            raise CheckpointError(
                f"{checkpoint.path}: has {forms[0]} under {name!r}, the model needs {forms[1]}; "
                "it belongs to another model: name another --model-dir"
            )
    for name, target in targets.items():
        target.copy_(found[name])


class RunResult(Struct, frozen=True, kw_only=True):
    """What a run did."""

    end_step: int  # `global_step` at the end
    # whether it was asked to stop, by a signal or a log that cannot be written, at the latest while it saved
    interrupted: bool
    losses: list[float]  # the loss of every step, nats
    totals: EndLine  # samples processed, and the seconds from the beginning of the timed region to the last log line


def run_steps(
    plan: RunPlan,
    source: Source,  # of samples
    world: World,  # only its main rank logs and saves
    *,
    on_line: Callable[[str], None] = print,  # receives each line of the log
    on_step: Callable[[], object] = lambda: None,  # called after each step
    clock: Callable[[], float] = time.perf_counter,  # monotonic, seconds
) -> RunResult:
    """Train as planned.

    The clock starts after a warm-up whose gradients are dropped, so that neither memory nor compilation is timed and
    no result depends on it. It is read only where a log line is due, after the device has finished, together with
    the count of samples. A window that follows a checkpoint includes its writing; the last checkpoint follows the
    last mark. If a line cannot be written (a closed pipe, a full disk), the run stops and saves.

    Raises:
        NonFiniteError: a loss or a weight was NaN or infinite; nothing was saved since.
        CheckpointError: the checkpoint does not fit the model, or the directory was deleted or replaced.
        MainRankError: on the other ranks, any of these on the main one.
    """
    config, last_step = plan.config, plan.last_step
    trainer = _warmed_up(plan, source, world, on_line)
    stepping = Stepping(trainer.step, world=world, start_step=plan.start_step)
    synchronize(config.device)
    began = Mark(samples=0, time_s=clock())
    rates = Rates(began=began, latest=began)
    with stop_requests() as stop:

        def say(line: object) -> None:
            try:
                if world.is_main:
                    on_line(str(line))
            except OSError:
                stop.set()

        while stepping.global_step < last_step:
            stepping.step()
            step = stepping.global_step
            line_due = should_act(global_step=step, last_step=plan.last_step, every=config.log_steps)
            checkpoint_due = should_act(global_step=step, last_step=plan.last_step, every=config.checkpoint_steps)
            # Several ranks must stop at the same step, and ask each other only where they wait for each other anyway.
            if (world.size == 1 or line_due or checkpoint_due) and world.any(stop.is_set()):
                last_step = step
                line_due = checkpoint_due = True
            if line_due or checkpoint_due:
                stepping.read()
            if line_due:
                synchronize(config.device)
                rates = rates.at(Mark(samples=len(stepping.losses) * config.global_batch_size, time_s=clock()))
                loss = stepping.losses[-1]
                say(LogLine(global_step=step, loss=loss, rate=rates.rate, global_rate=rates.global_rate))
            on_step()
            if checkpoint_due:
                world.from_main(lambda: trainer.save_in(plan.store, **plan.recorded))
        totals = EndLine(samples=rates.latest.samples, seconds=rates.latest.time_s - began.time_s)
        interrupted = world.any(stop.is_set())  # also by a request that came during the last save
    say(totals)
    return RunResult(end_step=stepping.global_step, interrupted=interrupted, losses=stepping.losses, totals=totals)


def _warmed_up(plan: RunPlan, source: Source, world: World, on_line: Callable[[str], None]) -> Trainer:
    """Return what trains; a start at step 0 has then moved the checkpoints that were there."""
    config = plan.config
    case = Case(
        global_batch_size=config.global_batch_size,
        micro_batch_size=plan.micro_batch_size,
        seed=config.seed,
        device=str(config.device),
        precision=config.precision,
        rank=world.rank,
        world_size=world.size,
    )
    keep_freed_memory()
    trainer = Trainer(config.workload, case, source, start_step=plan.start_step, compiled=config.compile)
    if plan.checkpoint is not None:
        load_tensors(plan.checkpoint, trainer.model, trainer.optimizer if config.start == "resume" else None)
    if config.keep_checkpoints > 0 and config.start != "resume":
        world.barrier()  # every rank has loaded what it needs
        put_away = world.from_main(plan.store.put_away)
        if put_away and world.is_main:
            on_line(f"The checkpoints in {config.model_dir} were moved to {put_away}")
    trainer.warm_up()
    world.barrier()
    return trainer
