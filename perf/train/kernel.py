"""The training kernel: BERT for pre-training (Devlin et al. 2018), its loss, and one optimizer step of it.

Two savings change no result. The vocabulary projection is computed only where a token is hidden, and the last layer
only at [CLS] and at those positions, because nothing else of it is read. Neither is an approximation: the loss and
the gradients are those of the full computation (tests/train/test_model_parity.py).

Shapes: B samples, S tokens each, H hidden, A heads, P hidden tokens, V words, R = V rounded up to a multiple of 64.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from perf.train.data import Batch
from perf.train.workloads import BertConfig

LAYER_NORM_EPS = 1e-5
_ROW_MULTIPLE = 64  # matrix products are markedly slower where the number of words (30522) is no multiple of it


class SelfAttention(nn.Module):
    """Multi-head self-attention whose queries may stand at fewer positions than its keys and values."""

    def __init__(self, workload: BertConfig) -> None:
        super().__init__()
        self.num_heads = workload.num_heads
        self.dropout = workload.dropout
        self.qkv = nn.Linear(workload.hidden_size, 3 * workload.hidden_size)
        self.output = nn.Linear(workload.hidden_size, workload.hidden_size)

    def forward(self, x: Tensor, queries: Tensor) -> Tensor:
        """Attend from `queries` (B, Q, H) to `x` (B, S, H); return (B, Q, H). Pass `x` twice for every position."""
        hidden = x.shape[-1]
        if queries is x:
            q, k, v = self._heads(self.qkv(x), 3)  # each (B, A, S, H / A)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            (q,) = self._heads(F.linear(queries, weight[:hidden], bias[:hidden]), 1)  # (B, A, Q, H / A)
            k, v = self._heads(F.linear(x, weight[hidden:], bias[hidden:]), 2)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))  # (B, Q, H)
        return result

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (B, N, parts * H) into `parts` tensors of (B, A, N, H / A)."""
        split = x.view(*x.shape[:2], parts, self.num_heads, -1)  # (B, N, parts, A, H / A)
        return tuple(split.permute(2, 0, 3, 1, 4))


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each followed by dropout, residual and layer norm (post-norm)."""

    def __init__(self, workload: BertConfig) -> None:
        super().__init__()
        hidden = workload.hidden_size
        self.attention = SelfAttention(workload)
        self.attention_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.intermediate = nn.Linear(hidden, workload.intermediate_size)
        self.output = nn.Linear(workload.intermediate_size, hidden)
        self.output_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(workload.dropout)

    def forward(self, x: Tensor, queries: Tensor) -> Tensor:
        """Return the layer's output (B, Q, H) at `queries` (B, Q, H), which are rows of `x` (B, S, H)."""
        h = self.attention_norm(queries + self.dropout(self.attention(x, queries)))
        result: Tensor = self.output_norm(h + self.dropout(self.output(F.gelu(self.intermediate(h)))))
        return result


class BertForPreTraining(nn.Module):
    """The whole model; `forward` returns the logits that `pretraining_loss` needs, and no others."""

    def __init__(self, workload: BertConfig) -> None:
        super().__init__()
        hidden = workload.hidden_size
        self.vocab_size = workload.vocab_size
        num_rows = -(-workload.vocab_size // _ROW_MULTIPLE) * _ROW_MULTIPLE
        self.token_embedding = nn.Embedding(num_rows, hidden)
        self.position_embedding = nn.Embedding(workload.max_positions, hidden)
        self.token_type_embedding = nn.Embedding(2, hidden)
        self.embedding_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(workload.dropout)
        self.layers = nn.ModuleList(EncoderLayer(workload) for _ in range(workload.num_layers))
        self.pooler = nn.Linear(hidden, hidden)
        self.next_sentence = nn.Linear(hidden, 2)
        self.mlm_transform = nn.Linear(hidden, hidden)
        self.mlm_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.mlm_bias = nn.Parameter(torch.zeros(workload.vocab_size))  # The decoder's weight is the embedding's.
        self.apply(_initialize)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, masked_positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return MLM logits (B * P, R) at the hidden positions and next-sentence logits (B, 2); of `Batch`'s fields."""
        seq_len = input_ids.shape[1]
        x = self.token_embedding(input_ids) + self.position_embedding.weight[:seq_len]  # (B, S, H)
        # Two rows only: interpolating is faster than a second lookup, and exact at 0 and 1.
        first, second = self.token_type_embedding.weight
        x = x + torch.lerp(first, second, token_type_ids.unsqueeze(-1).to(x.dtype))
        x = self.dropout(self.embedding_norm(x))
        for layer in self.layers[:-1]:
            x = layer(x, x)
        read = F.pad(masked_positions, (1, 0))  # (B, 1 + P): [CLS] stands at 0
        rows = (read + seq_len * torch.arange(len(read), device=read.device).unsqueeze(-1)).flatten()
        queries = x.flatten(0, 1).index_select(0, rows).unflatten(0, read.shape)
        x = self.layers[-1](x, queries)  # (B, 1 + P, H)
        next_sentence = self.next_sentence(torch.tanh(self.pooler(x[:, 0])))  # (B, 2)
        h = self.mlm_norm(F.gelu(self.mlm_transform(x[:, 1:].flatten(0, 1))))  # (B * P, H)
        # A word that does not exist gets probability 0, and so no gradient.
        surplus = self.token_embedding.num_embeddings - self.vocab_size
        bias = F.pad(self.mlm_bias, (0, surplus), value=float("-inf"))  # (R,)
        return F.linear(h, self.token_embedding.weight, bias), next_sentence


def pretraining_loss(mlm_logits: Tensor, next_sentence_logits: Tensor, batch: Batch) -> Tensor:
    """Return the mean MLM cross-entropy plus the mean next-sentence cross-entropy (nats, fp32, no dimensions)."""
    mlm = F.cross_entropy(mlm_logits.float(), batch.masked_labels.flatten())
    return mlm + F.cross_entropy(next_sentence_logits.float(), batch.next_sentence_labels)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def make_optimizer(model: nn.Module, workload: BertConfig) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only, not on biases and layer norms (Devlin et al. 2018)."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": workload.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=workload.learning_rate, fused=True)


def learning_rate(workload: BertConfig, step: int) -> float:
    """Return the learning rate of the update that completes `step` (1, 2, ...): a linear rise, then a fall to 0."""
    warmup, end = workload.lr_warmup_steps, workload.lr_end_step
    rise = step / warmup
    fall = (end - step) / max(end - warmup, 1)
    return workload.learning_rate * max(0.0, min(rise, fall))


def train_step(
    model: nn.Module,  # may be wrapped in DistributedDataParallel: the gradients are then averaged over the ranks, once
    optimizer: torch.optim.Optimizer,  # its gradients are empty when this returns
    batch: Batch,  # this rank's samples; their number is a multiple of `micro_batch_size`
    *,
    micro_batch_size: int,  # samples per forward pass
    precision: str,  # "fp32" or "bf16" (matrix products; weights, loss and update stay fp32)
    lr: float,  # learning rate of this update
    max_grad_norm: float,  # the gradient's norm is clipped to it
) -> Tensor:
    """Update the weights once and return the batch's mean loss (nats, no dimensions, on the device, no host sync).

    Without dropout, the loss and the gradients do not depend on `micro_batch_size` beyond rounding: every micro-batch
    has the same number of samples and of hidden tokens, so the mean of their means is the mean of all.
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
