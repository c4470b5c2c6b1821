"""One optimizer step: forward and backward over micro-batches, clip, update."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from perf.train.data import Batch
from perf.train.model import pretraining_loss
from perf.train.workloads import BertConfig


def make_optimizer(model: nn.Module, workload: BertConfig) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only, not on biases and layer norms (Devlin et al. 2018)."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": workload.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=workload.learning_rate, fused=True)


def learning_rate(workload: BertConfig, step: int) -> float:
    """Return the learning rate of the update that completes `step` (1, 2, ...): a linear rise, then a fall to 0."""
    warmup, end = workload.lr_warmup_steps, workload.lr_end_step
    rise = step / warmup
    fall = (end - step) / max(end - warmup, 1)
    return workload.learning_rate * max(0.0, min(rise, fall))


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    micro_batch_size: int,
    precision: str,
    lr: float,
    max_grad_norm: float,
) -> Tensor:
    """Update the weights once and return the batch's mean loss (nats, no dimensions, on the device, no host sync).

    Without dropout, the loss and the gradients do not depend on `micro_batch_size` beyond rounding: every micro-batch
    has the same number of samples and of hidden tokens, so the mean of their means is the mean of all.

    Args:
        model: may be wrapped in DistributedDataParallel, which then averages the gradients over the ranks, once.
        optimizer: its gradients are empty when this returns.
        batch: this rank's samples; their number is a multiple of `micro_batch_size`.
        micro_batch_size: samples per forward pass.
        precision: "fp32" or "bf16" (matrix products; weights, loss and update stay fp32).
        lr: learning rate of this update.
        max_grad_norm: the gradient's norm is clipped to it.
    """
    loss = accumulate_gradients(model, batch, micro_batch_size=micro_batch_size, precision=precision)
    nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


def accumulate_gradients(model: nn.Module, batch: Batch, *, micro_batch_size: int, precision: str) -> Tensor:
    """Add the gradients of the batch's mean loss to the parameters' and return that loss; see `train_step`."""
    grad_accum_steps = len(batch) // micro_batch_size
    total = torch.zeros((), device=batch.input_ids.device)
    for index in range(grad_accum_steps):
        micro = batch.slice(index * micro_batch_size, (index + 1) * micro_batch_size)
        is_last = index == grad_accum_steps - 1
        # Gradients travel between the ranks once a step, with the last micro-batch.
        local = model.no_sync() if isinstance(model, DistributedDataParallel) and not is_last else nullcontext()
        with local:
            with _precision(precision, batch.input_ids.device):
                mlm_logits, next_sentence_logits = model(micro.input_ids, micro.token_type_ids, micro.masked_positions)
            loss = pretraining_loss(mlm_logits, next_sentence_logits, micro) / grad_accum_steps
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        total += loss.detach()
    return total


@contextmanager
def _precision(precision: str, device: torch.device) -> Iterator[None]:
    with ExitStack() as stack:
        if precision == "bf16":
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
            if device.type == "cpu":
                # The CPU's fused attention is written for fp32: in bf16 the plain products are about 1.7 x as fast.
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
