"""The state of a training run: its model, optimizer and data position; loaded, advanced one step, and saved."""

from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from perf.errors import CheckpointError, NonFiniteError
from perf.seam import Case
from perf.train.checkpoints import Checkpoint, CheckpointStore, Facts
from perf.train.config import RunConfig, RunPlan, plan_run
from perf.train.data import Batch, Source, SyntheticLanguage
from perf.train.devices import World, seed_device
from perf.train.kernel import BertForPreTraining, accumulate_gradients, learning_rate, make_optimizer, train_step
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

    def save(self, directory: Path | None = None) -> Path | None:
        """Write a checkpoint of this moment, on the main rank; every rank returns when it is on disk.

        `directory` is where, by default the run's own; the attribution of a step's time names a temporary one.

        Raises:
            NonFiniteError: a weight is NaN or infinite: a gradient overflowed though the loss did not.
            CheckpointError, OSError: it could not be written.
            MainRankError: on the other ranks, any of these on the main one.
        """
        store = CheckpointStore(directory, keep_last=1) if directory else self._store
        return self._world.from_main(lambda: self._save(store))

    def _save(self, store: CheckpointStore) -> Path | None:
        tensors = state_tensors(self.model, self.optimizer)
        if not torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).all():
            self.fail(self.global_step, "a weight is not finite after the update")
        facts = Facts(global_step=self.global_step, data_position=self.data_position, **self._plan.recorded)
        return store.save(facts, tensors)

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
