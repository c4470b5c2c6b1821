"""Train the built-in BERT with the API of cerebras-pytorch, on a CPU or on a Cerebras system.

It prints the lines of the vendor's own trainer, and continues from the newest checkpoint as that one does.
"""

import argparse
from dataclasses import fields
from pathlib import Path

import cerebras.pytorch as cstorch
import torch
import yaml
from torch import nn

from perf.train.data import Batch, SyntheticLanguage
from perf.train.kernel import BertForPreTraining, accumulate_gradients
from perf.train.workloads import BERT_CONFIGS

WORKLOAD = BERT_CONFIGS["pico"]


# Two operations of the model that the compiler for Cerebras systems does not take, in terms of those that it does.
@cstorch.register_decomposition(torch.ops.aten.lerp.Tensor)
def interpolate(start, end, weight):
    """Return what torch.lerp returns."""
    return start + weight * (end - start)


@cstorch.register_decomposition(torch.ops.aten.constant_pad_nd)
def pad(x, widths, value=0):
    """Return what F.pad returns for the last dimension."""
    before, after = (torch.full_like(x[..., :1], value).expand(*x.shape[:-1], width) for width in widths)
    return torch.cat([before, x, after], dim=-1)


def parse_arguments():
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("CPU", "CSX"), default="CPU")
    parser.add_argument("--cluster-config", type=Path, help="YAML file: arguments of ClusterConfig, for CSX")
    parser.add_argument("--global-batch-size", type=int, default=64, help="samples per optimizer step")
    parser.add_argument("--micro-batch-size", type=int, help="samples per forward pass; the whole batch by default")
    parser.add_argument("--max-steps", type=int, default=100, help="train up to this step, earlier runs included")
    parser.add_argument("--log-steps", type=int, default=10)
    parser.add_argument(
        "--model-dir", type=Path, default=Path("model_dir"), help="for checkpoints and the vendor's logs"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.micro_batch_size = arguments.micro_batch_size or arguments.global_batch_size
    if arguments.global_batch_size % arguments.micro_batch_size:
        parser.error("--global-batch-size must be a multiple of --micro-batch-size")
    return arguments


def make_backend(arguments):
    """Return the vendor's backend; its records go to the model directory."""
    logs = arguments.model_dir / "cerebras_logs"
    if arguments.backend == "CPU":
        return cstorch.backend("CPU", artifact_dir=logs)
    cstorch.amp.set_half_dtype("bfloat16")  # float16 would need a loss scale
    cstorch.backends.csx.performance.micro_batch_size = arguments.micro_batch_size
    cluster = yaml.safe_load(arguments.cluster_config.read_text()) if arguments.cluster_config else {}
    return cstorch.backend("CSX", artifact_dir=logs, cluster_config=cstorch.distributed.ClusterConfig(**cluster))


def draw_batches(global_batch_size, seed, first_step):
    """Yield the batches from `first_step` on: a step's samples depend on the seed and its number only."""
    source = SyntheticLanguage(WORKLOAD, seed=seed)
    position = first_step * global_batch_size
    while True:
        batch = source.batch(position=position, num_samples=global_batch_size)
        yield {field.name: getattr(batch, field.name) for field in fields(batch)}
        position += global_batch_size


def make_optimizer(model):
    """Return the vendor's AdamW and schedule, with the figures of the workload."""
    peak, warmup, end = WORKLOAD.learning_rate, WORKLOAD.lr_warmup_steps, WORKLOAD.lr_end_step
    matrices = {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": WORKLOAD.weight_decay}
    vectors = {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}
    optimizer = cstorch.optim.AdamW([matrices, vectors], lr=peak, eps=1e-8)
    rise = cstorch.optim.lr_scheduler.LinearLR(optimizer, peak / warmup, peak, total_iters=warmup - 1)
    fall = cstorch.optim.lr_scheduler.LinearLR(optimizer, peak, 0.0, total_iters=end - warmup)
    return optimizer, cstorch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[warmup - 1])


def newest_checkpoint(model_dir):
    """Return the path of the checkpoint with the most steps, None if there is none."""
    return max(model_dir.glob("checkpoint_*.mdl"), key=lambda path: int(path.stem.split("_")[1]), default=None)


def main():
    """Train up to a number of steps."""
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    backend = make_backend(arguments)
    model = BertForPreTraining(WORKLOAD)
    compiled_model = cstorch.compile(model, backend)
    optimizer, scheduler = make_optimizer(model)
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    global_step = 0
    if checkpoint := newest_checkpoint(arguments.model_dir):
        saved = cstorch.load(checkpoint)
        global_step = saved.pop("global_step")
        for name, part in state.items():
            part.load_state_dict(saved[name])

    dataloader = cstorch.utils.data.DataLoader(draw_batches, arguments.global_batch_size, arguments.seed, global_step)
    # In the directory of a finished run this fails: "Initial global step 100 already exceeds max step 100."
    num_steps = cstorch.utils.data.compute_num_steps(dataloader, global_step, max_steps=arguments.max_steps)
    executor = cstorch.utils.data.DataExecutor(dataloader, num_steps=num_steps, checkpoint_steps=num_steps)

    @cstorch.trace
    def train_step(batch):
        # A Cerebras system divides the batch itself, as told in make_backend.
        size = arguments.micro_batch_size if backend.is_cpu else arguments.global_batch_size
        loss = accumulate_gradients(compiled_model, Batch(**batch), micro_batch_size=size, precision="fp32")
        nn.utils.clip_grad_norm_(model.parameters(), WORKLOAD.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        return loss

    @cstorch.step_closure
    def log(loss):
        if executor.user_iteration % arguments.log_steps == 0 or executor.on_final_iteration:
            tracker = executor.profiler.rate_tracker
            print(
                f"Step={global_step}, Loss={loss.item():.5f}, "
                f"Rate={tracker.rate:.2f} samples/sec, GlobalRate={tracker.global_rate:.2f} samples/sec",
                flush=True,
            )

    @cstorch.checkpoint_closure
    def save():
        parts = {name: part.state_dict() for name, part in state.items()}
        cstorch.save({**parts, "global_step": global_step}, arguments.model_dir / f"checkpoint_{global_step}.mdl")

    for batch in executor:
        global_step += 1
        log(train_step(batch))
        save()
    tracker = executor.profiler.rate_tracker
    print(f"Processed {int(tracker.total_samples)} sample(s) in {tracker.total_time} seconds.", flush=True)


if __name__ == "__main__":
    main()
