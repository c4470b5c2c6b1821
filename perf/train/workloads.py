"""The built-in workloads: what is trained, how, at which batch sizes, and why it is here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from perf.seam import Case, Step, Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class BertConfig:
    """What one built-in workload trains. Sizes follow BERT (Devlin et al. 2018); a sample is a pair of sentences.

    Attributes:
        name: what the command line calls it.
        why: what it is for.
        num_layers, hidden_size, num_heads, intermediate_size: the encoder.
        vocab_size: tokens in the vocabulary.
        max_positions: positions the model could tell apart; at least `seq_len`.
        seq_len: tokens per sample.
        masked_per_sample: tokens to predict per sample: 15 % of `seq_len`, rounded up.
        dropout: probability, on embeddings, attention weights and sublayer outputs.
        learning_rate: the peak, after `lr_warmup_steps` of linear rise.
        lr_warmup_steps: length of the learning-rate ramp, steps.
        lr_end_step: the step at which the linear decay reaches 0.
        weight_decay: AdamW's, on matrices only.
        max_grad_norm: the gradient's norm is clipped to it.
        micro_batch_size: samples per forward pass; the fastest found where it was measured.
        global_batch_sizes: samples per optimizer step, for each run of the main job.
        max_steps, log_steps: how long to train and how often to log, by default.
    """

    name: str
    why: str
    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    seq_len: int
    masked_per_sample: int
    dropout: float = 0.0
    learning_rate: float
    lr_warmup_steps: int
    lr_end_step: int
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    micro_batch_size: int
    global_batch_sizes: tuple[int, ...]
    max_steps: int
    log_steps: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"workload {self.name}: {field.name}={value}, at least 1 is needed")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"workload {self.name}: hidden_size={self.hidden_size} is not divisible by num_heads={self.num_heads}"
            )
        if self.seq_len > self.max_positions:
            raise ValueError(f"workload {self.name}: seq_len={self.seq_len} exceeds max_positions={self.max_positions}")
        if self.masked_per_sample > self.seq_len - 3:
            raise ValueError(
                f"workload {self.name}: masked_per_sample={self.masked_per_sample}, but of seq_len={self.seq_len} "
                "tokens 3 are special"
            )
        if not self.global_batch_sizes:
            raise ValueError(f"workload {self.name}: global_batch_sizes is empty; name at least one")


def _bert(name: str, why: str, *, hidden_size: int, seq_len: int, **more: Any) -> BertConfig:
    """Return a configuration with BERT's proportions: four times the width inside, 15 % of the tokens to predict."""
    more |= {"intermediate_size": 4 * hidden_size, "seq_len": seq_len, "masked_per_sample": math.ceil(0.15 * seq_len)}
    return BertConfig(name=name, why=why, hidden_size=hidden_size, **more)


_BERT: dict[str, Any] = {"vocab_size": 30522, "max_positions": 128, "seq_len": 128}
_SMALL: dict[str, Any] = {"num_layers": 2, "num_heads": 2, "lr_warmup_steps": 20, "lr_end_step": 4000}
_REFERENCE: dict[str, Any] = {
    **_BERT,
    "max_positions": 512,
    "dropout": 0.1,
    # Ramp, end and peak of the example's published configuration; its peak is 1e-4 * sqrt(batch / 256) / 2, here at
    # 1024.
    "learning_rate": 1e-4,
    "lr_warmup_steps": 3200,
    "lr_end_step": 80_800,
    "global_batch_sizes": (512, 1024, 2048),
    "max_steps": 1000,
    "log_steps": 100,
}

_CONFIGS = (
    _bert(
        "pico", "the whole experiment, three batch sizes that learn, in two minutes on two CPU cores", **_SMALL,
        hidden_size=32, vocab_size=1024, max_positions=32, seq_len=32, learning_rate=4e-3, micro_batch_size=512,
        global_batch_sizes=(512, 1024, 2048), max_steps=200, log_steps=20,
    ),
    _bert(
        "nano", "four times the words and twice the width of pico: matrix products begin to matter", **_SMALL,
        hidden_size=64, vocab_size=4096, max_positions=64, seq_len=64, learning_rate=3e-3, micro_batch_size=64,
        global_batch_sizes=(512, 1024, 2048), max_steps=200, log_steps=20,
    ),
    _bert(
        "tiny", "BERT's own vocabulary and sequence length at BERT-tiny's width: the vocabulary projection dominates",
        **_SMALL, **_BERT, hidden_size=128, learning_rate=2e-3, micro_batch_size=16,
        global_batch_sizes=(64, 128, 256), max_steps=100, log_steps=10,
    ),
    _bert(
        "mini", "BERT-mini: the largest whose three batch sizes a CPU can train while one waits",
        **{**_SMALL, "num_layers": 4, "num_heads": 4}, **_BERT, hidden_size=256, learning_rate=1e-3,
        micro_batch_size=16, global_batch_sizes=(32, 64, 128), max_steps=100, log_steps=10,
    ),
    _bert(
        "bert-base-msl128", "the reference example at BERT-base size, for accelerators too small for BERT-large",
        **_REFERENCE, num_layers=12, hidden_size=768, num_heads=12, micro_batch_size=256,
    ),
    _bert(
        "bert-large-msl128", "the reference example in full, as published for three batch sizes on another accelerator",
        **_REFERENCE, num_layers=24, hidden_size=1024, num_heads=16, micro_batch_size=128,
    ),
)  # fmt: skip

BERT_CONFIGS = {config.name: config for config in _CONFIGS}


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
        about={
            name: list(v) if isinstance(v, tuple) else v
            for name, v in asdict(config).items()
            if name not in ("name", "why")
        },
    )


WORKLOADS = {name: bert_workload(config) for name, config in BERT_CONFIGS.items()}
"""The built-in workloads, made through the seam that everybody's enter by."""
