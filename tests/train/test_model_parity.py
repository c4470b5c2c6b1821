"""The model computes what Hugging Face's BertForPreTraining computes: the same loss, the same gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from perf.train.data import Batch, SyntheticLanguage
from perf.train.model import LAYER_NORM_EPS, BertForPreTraining, pretraining_loss
from perf.train.workloads import Workload

transformers = pytest.importorskip("transformers", reason="needs the parity extra: pip install 'stepmark[parity]'")


@pytest.fixture(scope="module")
def small(workload: Workload) -> Workload:
    """A small workload without dropout, whose vocabulary is no multiple of 64 and whose layers differ in role."""
    return dataclasses.replace(workload, num_layers=3, dropout=0.0)


@pytest.fixture(scope="module")
def batch(small: Workload) -> Batch:
    """Twelve samples."""
    return SyntheticLanguage(small, seed=5).batch(position=0, num_samples=12)


@pytest.fixture(scope="module")
def ours(small: Workload) -> BertForPreTraining:
    """Our model, with every weight drawn anew: zeros and ones would hide a bias or a norm left out."""
    torch.manual_seed(11)
    model = BertForPreTraining(small)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def names(num_layers: int) -> dict[str, list[str]]:
    """Return our parameter names, each with its counterparts in theirs (three where queries, keys, values are one)."""
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


def rename(ours: dict[str, torch.Tensor], num_layers: int, vocab_size: int) -> dict[str, torch.Tensor]:
    """Return our tensors (weights, or their gradients) under their names."""
    result = {"cls.predictions.bias": ours["mlm_bias"]}
    for module, theirs in names(num_layers).items():
        for kind in ("weight", "bias"):
            if (tensor := ours.get(f"{module}.{kind}")) is not None:
                if module == "token_embedding":
                    tensor = tensor[:vocab_size]
                for name, part in zip(theirs, tensor.chunk(len(theirs)), strict=True):
                    result[f"{name}.{kind}"] = part
    return result


@pytest.fixture(scope="module")
def theirs(small: Workload, ours: BertForPreTraining) -> Any:
    """Their model, with our weights."""
    config = transformers.BertConfig(
        vocab_size=small.vocab_size,
        hidden_size=small.hidden_size,
        num_hidden_layers=small.num_layers,
        num_attention_heads=small.num_heads,
        intermediate_size=small.intermediate_size,
        max_position_embeddings=small.max_positions,
        layer_norm_eps=LAYER_NORM_EPS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = transformers.BertForPreTraining(config)
    weights = rename({n: p.detach() for n, p in ours.named_parameters()}, small.num_layers, small.vocab_size)
    parameters = dict(model.named_parameters())
    assert set(parameters) == set(weights), "every parameter of theirs has a counterpart"
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    return model


def test_loss_and_gradients_are_those_of_the_plain_model(
    small: Workload, batch: Batch, ours: BertForPreTraining, theirs: Any
) -> None:
    """Same weights, same inputs, fp32: the loss agrees within 1e-5 and every gradient within 1e-5 of its size."""
    loss = pretraining_loss(*ours(batch.input_ids, batch.token_type_ids, batch.masked_positions), batch)
    labels = torch.full_like(batch.input_ids, -100).scatter(1, batch.masked_positions, batch.masked_labels)
    plain = theirs(
        input_ids=batch.input_ids,
        token_type_ids=batch.token_type_ids,
        labels=labels,
        next_sentence_label=batch.next_sentence_labels,
    ).loss
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    loss.backward()
    plain.backward()
    gradients = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
    for name, gradient in rename(gradients, small.num_layers, small.vocab_size).items():
        expected = theirs.get_parameter(name).grad
        assert torch.linalg.vector_norm(gradient - expected) <= 1e-5 * torch.linalg.vector_norm(expected) + 1e-7, name
    surplus = ours.token_embedding.weight.grad
    assert surplus is not None
    assert not surplus[small.vocab_size :].any(), "words that do not exist learn nothing"
