"""The built-in workloads (workloads.toml): what is trained, how, at which batch sizes, and why it is here."""

import tomllib
from importlib.resources import files

from msgspec import Struct, convert, to_builtins

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


_TABLES = tomllib.loads(files("perf.train").joinpath("workloads.toml").read_text(encoding="utf-8"))
BERT_CONFIGS = {name: convert({"name": name, **table}, BertConfig) for name, table in _TABLES.items()}


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
