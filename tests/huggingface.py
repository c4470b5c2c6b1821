"""Hugging Face's BertForPreTraining with our weights: the plain model that ours is held against."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

from perf.train.data import Batch
from perf.train.kernel import LAYER_NORM_EPS, BertForPreTraining
from perf.train.workloads import BertConfig


def plain_model(workload: BertConfig, ours: BertForPreTraining) -> Any:
    """Return their model for `workload`, with a copy of our weights."""
    config = transformers.BertConfig(
        vocab_size=workload.vocab_size,
        hidden_size=workload.hidden_size,
        num_hidden_layers=workload.num_layers,
        num_attention_heads=workload.num_heads,
        intermediate_size=workload.intermediate_size,
        max_position_embeddings=workload.max_positions,
        layer_norm_eps=LAYER_NORM_EPS,
        hidden_dropout_prob=workload.dropout,
        attention_probs_dropout_prob=workload.dropout,
    )
    model = transformers.BertForPreTraining(config)
    weights = renamed({name: p.detach() for name, p in ours.named_parameters()}, workload)
    parameters = dict(model.named_parameters())
    assert set(parameters) == set(weights), "every parameter of theirs has a counterpart"
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    return model


def plain_loss(model: Any, batch: Batch) -> Tensor:
    """Return the loss of their model, computed the way its documentation shows."""
    labels = torch.full_like(batch.input_ids, -100).scatter(1, batch.masked_positions, batch.masked_labels)
    loss: Tensor = model(
        input_ids=batch.input_ids,
        token_type_ids=batch.token_type_ids,
        labels=labels,
        next_sentence_label=batch.next_sentence_labels,
    ).loss
    return loss


def renamed(ours: dict[str, Tensor], workload: BertConfig) -> dict[str, Tensor]:
    """Return our tensors (weights, or their gradients) under their names, without the words that do not exist."""
    result = {"cls.predictions.bias": ours["mlm_bias"]}
    for module, theirs in _counterparts(workload.num_layers).items():
        for kind in ("weight", "bias"):
            if (tensor := ours.get(f"{module}.{kind}")) is not None:
                if module == "token_embedding":
                    tensor = tensor[: workload.vocab_size]
                for name, part in zip(theirs, tensor.chunk(len(theirs)), strict=True):
                    result[f"{name}.{kind}"] = part
    return result


def _counterparts(num_layers: int) -> dict[str, list[str]]:
    """Return our modules, each with its counterparts in theirs.

    Three where queries, keys and values are one of ours.
    """
    table = {
        "token_embedding": ["bert.embeddings.word_embeddings"],
        "position_embedding": ["bert.embeddings.position_embeddings"],
        "token_type_embedding": ["bert.embeddings.token_type_embeddings"],
        "embedding_norm": ["bert.embeddings.LayerNorm"],
        "pooler": ["bert.pooler.dense"],
        "next_sentence": ["cls.seq_relationship"],
        "mlm_transform": ["cls.predictions.transform.dense"],
        "mlm_norm": ["cls.predictions.transform.LayerNorm"],
    }
    for i in range(num_layers):
        theirs = f"bert.encoder.layer.{i}"
        table |= {
            f"layers.{i}.attention.qkv": [f"{theirs}.attention.self.{part}" for part in ("query", "key", "value")],
            f"layers.{i}.attention.output": [f"{theirs}.attention.output.dense"],
            f"layers.{i}.attention_norm": [f"{theirs}.attention.output.LayerNorm"],
            f"layers.{i}.intermediate": [f"{theirs}.intermediate.dense"],
            f"layers.{i}.output": [f"{theirs}.output.dense"],
            f"layers.{i}.output_norm": [f"{theirs}.output.LayerNorm"],
        }
    return table
