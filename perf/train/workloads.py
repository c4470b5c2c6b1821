"""The built-in workloads: what is trained, how, at which batch sizes, and why it is here."""

from typing import Any

from msgspec import Struct, to_builtins

from perf.seam import Case, Step, Workload


class BertConfig(Struct, frozen=True, kw_only=True):
    """What one built-in workload trains. Sizes follow BERT (Devlin et al. 2018); a sample is a pair of sentences."""

    name: str  # what the command line calls it
    why: str  # what it is for
    num_layers: int  # of the encoder, as the next three
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
    max_steps: int  # how long to train, by default
    log_steps: int  # a log line every so many steps, by default


_ON_CPU: dict[str, Any] = {"lr_warmup_steps": 20, "lr_end_step": 4000}
# Ramp, end and peak of the example's published configuration; its peak is 1e-4 * sqrt(batch / 256) / 2, here at 1024.
_MSL128: dict[str, Any] = {
    "vocab_size": 30522, "max_positions": 512, "seq_len": 128, "masked_per_sample": 20, "dropout": 0.1,
    "learning_rate": 1e-4, "lr_warmup_steps": 3200, "lr_end_step": 80_800,
    "global_batch_sizes": (512, 1024, 2048), "max_steps": 1000, "log_steps": 100,
}  # fmt: skip

BERT_CONFIGS = {
    config.name: config
    for config in (
        BertConfig(
            name="pico", why="the whole experiment, three batch sizes that learn, in two minutes on two CPU cores",
            num_layers=2, hidden_size=32, num_heads=2, intermediate_size=128, vocab_size=1024,
            max_positions=32, seq_len=32, masked_per_sample=5, learning_rate=4e-3, micro_batch_size=512,
            global_batch_sizes=(512, 1024, 2048), max_steps=200, log_steps=20, **_ON_CPU,
        ),
        BertConfig(
            name="nano", why="four times the words and twice the width of pico: matrix products begin to matter",
            num_layers=2, hidden_size=64, num_heads=2, intermediate_size=256, vocab_size=4096,
            max_positions=64, seq_len=64, masked_per_sample=10, learning_rate=3e-3, micro_batch_size=64,
            global_batch_sizes=(512, 1024, 2048), max_steps=200, log_steps=20, **_ON_CPU,
        ),
        BertConfig(
            name="tiny",
            why="BERT's own vocabulary and sequence length at BERT-tiny's width: the vocabulary projection dominates",
            num_layers=2, hidden_size=128, num_heads=2, intermediate_size=512, vocab_size=30522,
            max_positions=128, seq_len=128, masked_per_sample=20, learning_rate=2e-3, micro_batch_size=16,
            global_batch_sizes=(64, 128, 256), max_steps=100, log_steps=10, **_ON_CPU,
        ),
        BertConfig(
            name="mini", why="BERT-mini: the largest whose three batch sizes a CPU can train while one waits",
            num_layers=4, hidden_size=256, num_heads=4, intermediate_size=1024, vocab_size=30522,
            max_positions=128, seq_len=128, masked_per_sample=20, learning_rate=1e-3, micro_batch_size=16,
            global_batch_sizes=(32, 64, 128), max_steps=100, log_steps=10, **_ON_CPU,
        ),
        BertConfig(
            name="bert-base-msl128",
            why="the reference example at BERT-base size, for accelerators too small for BERT-large",
            num_layers=12, hidden_size=768, num_heads=12, intermediate_size=3072, micro_batch_size=256, **_MSL128,
        ),
        BertConfig(
            name="bert-large-msl128",
            why="the reference example in full, as published for three batch sizes on another accelerator",
            num_layers=24, hidden_size=1024, num_heads=16, intermediate_size=4096, micro_batch_size=128, **_MSL128,
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
