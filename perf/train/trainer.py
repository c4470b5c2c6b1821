"""The training of a run: its state (model, optimizer, data position), and the loop that steps, marks, logs, saves."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from perf.errors import CheckpointError, NonFiniteError
from perf.logs.runlog import EndLine, LogLine, Mark, Rates
from perf.seam import Case
from perf.signals import stop_requests
from perf.train.checkpoints import Checkpoint, CheckpointStore, Facts
from perf.train.config import RunConfig, RunPlan, plan_run
from perf.train.data import Batch, Source, SyntheticLanguage
from perf.train.devices import World, keep_freed_memory, seed_device, synchronize
from perf.train.kernel import BertForPreTraining, accumulate_gradients, learning_rate, make_optimizer, train_step
from perf.train.stepping import Stepping, should_act
from perf.train.workloads import BertConfig


class Trainer:
    """A model in training. Learning rate, dropout and data follow from the seed and the step alone."""

    def __init__(self, plan: RunPlan, source: Source, world: World, store: CheckpointStore | None = None) -> None:
        config = plan.config
        self._plan, self._source, self._world = plan, source, world
        self._store = store or config.store()  # the one given is held
        torch.manual_seed(config.seed)
        self.model = BertForPreTraining(config.workload).to(config.device)  # plain, whatever wraps it for several ranks
        self.optimizer = make_optimizer(self.model, config.workload)
        self.global_step = plan.start_step  # optimizer steps completed
        self.data_position = plan.start_step * config.global_batch_size  # the number of the next sample
        if plan.checkpoint is not None:
            load_tensors(plan.checkpoint, self.model, self.optimizer if config.start == "resume" else None)
        if config.compile:
            self.model.compile()
        self._ranks: nn.Module = DistributedDataParallel(self.model) if world.size > 1 else self.model
        self.model.train()

    def warm_up(self) -> None:
        """Run one forward and backward pass and drop its gradients: memory and compilation, but no progress."""
        size = self._plan.micro_batch_size
        micro_batch = self._draw().slice(0, size)
        accumulate_gradients(self._ranks, micro_batch, micro_batch_size=size, precision=self._plan.config.precision)
        self.optimizer.zero_grad(set_to_none=True)
        self._world.barrier()

    def step(self) -> Tensor:
        """Complete one optimizer step and return its mean loss on this rank (nats, no dimensions); no host sync."""
        config, workload = self._plan.config, self._plan.config.workload
        self.global_step += 1
        seed_device(config.device, step_seed(config.seed, self.global_step, self._world.rank))
        loss = train_step(
            self._ranks,
            self.optimizer,
            self._draw(),
            micro_batch_size=self._plan.micro_batch_size,
            precision=config.precision,
            lr=learning_rate(workload, self.global_step),
            max_grad_norm=workload.max_grad_norm,
        )
        self.data_position += config.global_batch_size
        return loss

    __call__ = step  # a step of the seam

    def save(self) -> Path | None:
        """Write a checkpoint of this moment, on the main rank; every rank returns when it is on disk.

        Raises:
            NonFiniteError: a weight is NaN or infinite: a gradient overflowed though the loss did not.
            CheckpointError, OSError: it could not be written.
            MainRankError: on the other ranks, any of these on the main one.
        """
        return self._world.from_main(self._save)

    def _save(self) -> Path | None:
        tensors = state_tensors(self.model, self.optimizer)
        if not torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).all():
            self.fail(self.global_step, "a weight is not finite after the update")
        facts = Facts(global_step=self.global_step, data_position=self.data_position, **self._plan.recorded)
        return self._store.save(facts, tensors)

    def fail(self, step: int, what: str) -> NoReturn:
        """Raise `NonFiniteError` for a step, with what was saved before it."""
        config, saved = self._plan.config, self._store.steps()
        last = f"the last checkpoint is of step {saved[-1]}" if saved else "there is no checkpoint"
        raise NonFiniteError(
            f"Step={step}: {what}; {last} in {config.model_dir}. "
            f"Go on with --precision fp32 (now {config.precision}), or start over with --fresh and another --seed"
        )

    def _draw(self) -> Batch:
        rank_samples = self._plan.config.global_batch_size // self._world.size
        position = self.data_position + self._world.rank * rank_samples
        return self._source.batch(position=position, num_samples=rank_samples).to(self._plan.config.device)


def measured_trainer(config: BertConfig, case: Case, source: Source | None = None) -> Trainer:
    """Return a warmed-up trainer of a case, which is a step of the seam; it has no directory to save in.

    Its samples are of the synthetic language, or of `source`.
    """
    run = RunConfig(
        workload=config,
        global_batch_size=case.global_batch_size,
        micro_batch_size=case.micro_batch_size,
        model_dir=Path(),  # nothing is saved there
        device=torch.device(case.device),
        precision=case.precision,
        seed=case.seed,
        max_steps=config.lr_end_step,
        log_steps=config.log_steps,
        keep_checkpoints=0,
        start="fresh",
    )
    source = source or SyntheticLanguage(config, seed=case.seed)
    trainer = Trainer(plan_run(run, source, World()), source, World())
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
    found = checkpoint.tensors()
    if optimizer is None:
        found = {name: tensor for name, tensor in found.items() if not name.startswith("optimizer.")}
    else:
        count = min(checkpoint.facts.global_step, 2**24)  # where a count in float32 stops rising
        for p in model.parameters():
            step = torch.full((), count, dtype=torch.float32, device=p.device)
            optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    targets = state_tensors(model, optimizer)
    needs, has = (
        {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in tensors.items()}
        for tensors in (targets, found)
    )
    if odd := [name for name in {**needs, **has} if needs.get(name) != has.get(name)]:
        raise CheckpointError(
            f"{checkpoint.path}: has {has.get(odd[0], 'nothing')} under {odd[0]!r}, the model needs "
            f"{needs.get(odd[0], 'nothing')} ({len(odd)} of {len(needs)} tensors differ); it belongs to another model: "
            "name another --model-dir"
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
    checkpoint: Path | None  # the last one written on this rank, if any


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
        CheckpointError: the checkpoint does not fit the model, another run is using the directory, or the directory was
            deleted or replaced during the run.
        MainRankError: on the other ranks, any of these on the main one.
    """
    config, last_step = plan.config, plan.last_step
    checkpoint: Path | None = None
    keep_freed_memory()
    with ExitStack() as held:
        trainer = _warmed_up(held, plan, source, world, on_line)
        stepping = Stepping(trainer.step, world=world, start_step=plan.start_step, fail=trainer.fail)
        synchronize(config.device)
        began = Mark(samples=0, time_s=clock())
        rates = Rates(began=began, latest=began)
        stop = held.enter_context(stop_requests())

        def say(line: object) -> None:
            try:
                if world.is_main:
                    on_line(str(line))
            except OSError:
                stop.set()

        while stepping.global_step < last_step:
            stepping.step()
            step = stepping.global_step
            line_due, checkpoint_due = (
                should_act(global_step=step, last_step=plan.last_step, every=every)
                for every in (config.log_steps, config.checkpoint_steps)
            )
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
                checkpoint = trainer.save()
        interrupted = world.any(stop.is_set())  # also by a request that came during the last save
        totals = EndLine(samples=rates.latest.samples, seconds=rates.latest.time_s - began.time_s)
    say(totals)
    return RunResult(
        end_step=stepping.global_step,
        interrupted=interrupted,
        losses=stepping.losses,
        totals=totals,
        checkpoint=checkpoint,
    )


def _warmed_up(held: ExitStack, plan: RunPlan, source: Source, world: World, on_line: Callable[[str], None]) -> Trainer:
    """Return what trains; until `held` ends, no other run uses its directory, whose checkpoints a fresh start moves."""
    store, keeps = plan.config.store(), plan.config.keep_checkpoints > 0
    if keeps:
        world.from_main(lambda: _claim(held, store, plan))
    trainer = Trainer(plan, source, world, store)
    if keeps and plan.config.start != "resume":
        world.barrier()  # every rank has loaded what it needs
        put_away = world.from_main(store.put_away)
        if put_away and world.is_main:
            on_line(f"The checkpoints in {store.directory} were moved to {put_away}")
    trainer.warm_up()
    return trainer


def _claim(held: ExitStack, store: CheckpointStore, plan: RunPlan) -> None:
    """Hold the run's directory, if it still is what the run was planned from."""
    held.enter_context(store.claim())
    newest, planned = max(store.steps(), default=0), plan.checkpoint.facts.global_step if plan.checkpoint else 0
    if plan.config.start != "fresh" and newest != planned:
        raise CheckpointError(
            f"{store.directory}: another run wrote step {newest} after this one was planned from step {planned}; "
            "start again to go on from there"
        )
