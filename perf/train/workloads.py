"""The built-in workloads: what is trained, how, at which batch sizes, and why it is here."""

import math
from typing import Any

from msgspec import Struct, to_builtins

from perf.seam import Case, Step, Workload


class BertConfig(Struct, frozen=True, kw_only=True):
    """What one built-in workload trains. Sizes follow BERT (Devlin et al. 2018); a sample is a pair of sentences."""

    name: str  # what the command line calls it
    why: str  # what it is for
    # num_layers, hidden_size, num_heads, intermediate_size: the encoder
    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    vocab_size: int  # tokens in the vocabulary
    max_positions: int  # positions the model could tell apart; at least `seq_len`
    seq_len: int  # tokens per sample
    masked_per_sample: int  # tokens to predict per sample: 15 % of `seq_len`, rounded up
    dropout: float = 0.0  # probability, on embeddings, attention weights and sublayer outputs
    learning_rate: float  # the peak, after `lr_warmup_steps` of linear rise
    lr_warmup_steps: int  # length of the learning-rate ramp, steps
    lr_end_step: int  # the step at which the linear decay reaches 0
    weight_decay: float = 0.01  # AdamW's, on matrices only
    max_grad_norm: float = 1.0  # the gradient's norm is clipped to it
    micro_batch_size: int  # samples per forward pass; the fastest found where it was measured
    global_batch_sizes: tuple[int, ...]  # samples per optimizer step, for each run of the main job
    # max_steps, log_steps: how long to train and how often to log, by default
    max_steps: int
    log_steps: int


def _bert(
    name: str, why: str, *, hidden_size: int, seq_len: int, smallest_batch_size: int, max_steps: int, **others: Any
) -> BertConfig:
    """Return a built-in workload, with the proportions that all of them share."""
    return BertConfig(
        name=name,
        why=why,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        seq_len=seq_len,
        masked_per_sample=math.ceil(0.15 * seq_len),
        global_batch_sizes=(smallest_batch_size, 2 * smallest_batch_size, 4 * smallest_batch_size),
        max_steps=max_steps,
        log_steps=max_steps // 10,
        **others,
    )


_ON_CPU = {"lr_warmup_steps": 20, "lr_end_step": 4000}
# Ramp, end and peak of the example's published configuration; its peak is 1e-4 * sqrt(batch / 256) / 2, here at 1024.
_MSL128: dict[str, Any] = {
    "vocab_size": 30522, "max_positions": 512, "seq_len": 128, "dropout": 0.1,
    "learning_rate": 1e-4, "lr_warmup_steps": 3200, "lr_end_step": 80_800,
    "smallest_batch_size": 512, "max_steps": 1000,
}  # fmt: skip

BERT_CONFIGS = {
    workload.name: workload
    for workload in (
        _bert(
            "pico", "the whole experiment, three batch sizes that learn, in two minutes on two CPU cores",
            num_layers=2, hidden_size=32, num_heads=2, vocab_size=1024, max_positions=32, seq_len=32,
            learning_rate=4e-3, micro_batch_size=512, smallest_batch_size=512, max_steps=200, **_ON_CPU,
        ),
        _bert(
            "nano", "four times the words and twice the width of pico: matrix products begin to matter",
            num_layers=2, hidden_size=64, num_heads=2, vocab_size=4096, max_positions=64, seq_len=64,
            learning_rate=3e-3, micro_batch_size=64, smallest_batch_size=512, max_steps=200, **_ON_CPU,
        ),
        _bert(
            "tiny",
            "BERT's own vocabulary and sequence length at BERT-tiny's width: the vocabulary projection dominates",
            num_layers=2, hidden_size=128, num_heads=2, vocab_size=30522, max_positions=128, seq_len=128,
            learning_rate=2e-3, micro_batch_size=16, smallest_batch_size=64, max_steps=100, **_ON_CPU,
        ),
        _bert(
            "mini", "BERT-mini: the largest whose three batch sizes a CPU can train while one waits",
            num_layers=4, hidden_size=256, num_heads=4, vocab_size=30522, max_positions=128, seq_len=128,
            learning_rate=1e-3, micro_batch_size=16, smallest_batch_size=32, max_steps=100, **_ON_CPU,
        ),
        _bert(
            "bert-base-msl128", "the reference example at BERT-base size, for accelerators too small for BERT-large",
            num_layers=12, hidden_size=768, num_heads=12, micro_batch_size=256, **_MSL128,
        ),
        _bert(
            "bert-large-msl128",
            "the reference example in full, as published for three batch sizes on another accelerator",
            num_layers=24, hidden_size=1024, num_heads=16, micro_batch_size=128, **_MSL128,
        ),
    )
}  # fmt: skip


def default_workload(device_type: str) -> str:
    """Return the name of what the main job trains on "cpu" or "cuda"."""
    return "bert-large-msl128" if device_type == "cuda" else "pico"


def bert_workload(config: BertConfig) -> Workload:
    """Return the workload that trains what a configuration says."""

    def build(case: Case) -> Step:
        from perf.train.trainer import measured_trainer  # torch

        return measured_trainer(config, case)

    return Workload(
        build=build,
        name=config.name,
        why=config.why,
        global_batch_sizes=config.global_batch_sizes,
        micro_batch_size=config.micro_batch_size,
        precision="auto",
        about={name: fact for name, fact in to_builtins(config).items() if name not in ("name", "why")},
    )


WORKLOADS = {name: bert_workload(config) for name, config in BERT_CONFIGS.items()}
"""The built-in workloads, made through the seam that everybody's enter by."""
