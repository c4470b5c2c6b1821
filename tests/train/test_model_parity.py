"""The model computes what Hugging Face's BertForPreTraining computes: the same loss, the same gradients."""

from __future__ import annotations

import msgspec
import pytest
import torch

from perf.train.data import SyntheticLanguage
from perf.train.kernel import BertForPreTraining, pretraining_loss
from perf.train.workloads import BertConfig

pytest.importorskip("transformers", reason="needs the parity extra: pip install 'stepmark[parity]'")


def test_loss_and_gradients_are_those_of_the_plain_model(workload: BertConfig) -> None:
    """Same weights, same inputs, fp32: the loss agrees within 1e-5 and every gradient within 1e-5 of its size.

    Three layers, so that the last differs from the others; a vocabulary that is no multiple of 64; every weight drawn
    anew, since initial zeros and ones would hide a bias or a norm left out.
    """
    from tests.huggingface import plain_loss, plain_model, renamed

    small = msgspec.structs.replace(workload, num_layers=3, dropout=0.0)
    batch = SyntheticLanguage(small, seed=5).batch(position=0, num_samples=12)
    torch.manual_seed(11)
    ours = BertForPreTraining(small)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.3)
    theirs = plain_model(small, ours)

    loss = pretraining_loss(*ours(batch.input_ids, batch.token_type_ids, batch.masked_positions), batch)
    plain = plain_loss(theirs, batch)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    loss.backward()
    plain.backward()
    gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    for name, gradient in renamed(gradients, small).items():
        expected = theirs.get_parameter(name).grad
        assert torch.linalg.vector_norm(gradient - expected) <= 1e-5 * torch.linalg.vector_norm(expected) + 1e-7, name
    surplus = gradients["token_embedding.weight"][small.vocab_size :]
    assert len(surplus) == 28
    assert not surplus.any(), "words that do not exist learn nothing"
