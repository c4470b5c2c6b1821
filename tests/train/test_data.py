"""Samples are a pure function of seed and number, well formed, masked as BERT masks, and learnable."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perf.train.data import CLS, MASK, NUM_SPECIAL, SEP, Batch, SyntheticLanguage, mask_tokens
from perf.train.workloads import BERT_CONFIGS

PICO = SyntheticLanguage(BERT_CONFIGS["pico"], seed=0)
FIELDS = [field.name for field in dataclasses.fields(Batch)]


def assert_equal(left: Batch, right: Batch) -> None:
    """Assert that two batches hold the same samples."""
    for name in FIELDS:
        assert torch.equal(getattr(left, name), getattr(right, name)), name


@given(position=st.integers(0, 3000), num_samples=st.integers(1, 700), cut=st.integers(0, 700))
@settings(max_examples=30)
def test_a_sample_does_not_depend_on_the_batch_it_is_drawn_in(position: int, num_samples: int, cut: int) -> None:
    """However a stretch of the stream is cut into batches, its samples are the same."""
    cut = min(cut, num_samples)
    whole = PICO.batch(position=position, num_samples=num_samples)
    assert len(whole) == num_samples
    for start, stop in ((0, cut), (cut, num_samples)):
        if start < stop:
            part = SyntheticLanguage(PICO.workload, seed=0).batch(position=position + start, num_samples=stop - start)
            assert_equal(part, whole.slice(start, stop))


def test_other_seeds_and_other_positions_give_other_samples() -> None:
    """Neither the seed nor the position is ignored."""
    first = PICO.batch(position=0, num_samples=64).input_ids
    assert not torch.equal(first, SyntheticLanguage(PICO.workload, seed=1).batch(position=0, num_samples=64).input_ids)
    for position in (64, 256, 512):
        assert not torch.equal(first, PICO.batch(position=position, num_samples=64).input_ids)


@pytest.mark.parametrize("name", BERT_CONFIGS)
def test_samples_are_well_formed(name: str) -> None:
    """Each sample is [CLS] A [SEP] B [SEP] and full; hidden tokens are words, in ascending order, never special."""
    workload = BERT_CONFIGS[name]
    batch = SyntheticLanguage(workload, seed=3).batch(position=100, num_samples=300)
    shape = (300, workload.seq_len)
    assert batch.input_ids.shape == batch.token_type_ids.shape == shape
    assert batch.masked_positions.shape == batch.masked_labels.shape == (300, workload.masked_per_sample)
    assert all(getattr(batch, name).dtype == torch.int64 for name in FIELDS)
    original = batch.input_ids.scatter(1, batch.masked_positions, batch.masked_labels)
    assert (original[:, 0] == CLS).all()
    assert (original[:, -1] == SEP).all()
    assert ((original == SEP).sum(1) == 2).all()
    assert ((original < NUM_SPECIAL).sum(1) == 3).all()
    assert original.max() < workload.vocab_size
    assert (batch.masked_positions.diff(dim=1) > 0).all()
    first_sep = (original == SEP).int().argmax(1)
    assert (batch.token_type_ids.sum(1) == workload.seq_len - 1 - first_sep).all()
    assert set(batch.next_sentence_labels.tolist()) == {0, 1}


def test_masking_is_80_10_10_and_drawn_afresh() -> None:
    """Of the hidden tokens 80 % are [MASK], 10 % random and 10 % kept, within five standard errors.

    No two draws alike.
    """
    workload = BERT_CONFIGS["pico"]
    tokens = np.random.default_rng(0).integers(NUM_SPECIAL, workload.vocab_size, size=(20_000, workload.seq_len))
    special = np.zeros(tokens.shape, dtype=bool)
    special[:, [0, 9, -1]] = True
    rng = np.random.default_rng(1)
    masked, positions, labels = mask_tokens(rng, tokens, special, workload)
    shown = np.take_along_axis(masked, positions, axis=1)
    assert np.array_equal(labels, np.take_along_axis(tokens, positions, axis=1))
    assert not np.take_along_axis(special, positions, axis=1).any()
    assert (masked != tokens).sum() == (shown != labels).sum(), "a token that is not predicted must stay"
    count = shown.size
    for share, expected in (((shown == MASK).mean(), 0.8), ((shown == labels).mean(), 0.1 + 0.1 / 1019)):
        assert abs(share - expected) < 5 * (expected * (1 - expected) / count) ** 0.5
    places = np.bincount(positions.ravel(), minlength=workload.seq_len)
    assert places[[0, 9, -1]].sum() == 0
    assert places[places > 0].min() > 0.9 * count / (workload.seq_len - 3), "every word may be hidden, equally often"
    _, again, _ = mask_tokens(rng, tokens, special, workload)
    assert not np.array_equal(positions, again)


def test_the_synthetic_language_can_be_learned() -> None:
    """Neighbours tell far more about a word than its frequency does, and topics tell which second sentence follows."""
    batch = PICO.batch(position=0, num_samples=20_000)
    original = batch.input_ids.scatter(1, batch.masked_positions, batch.masked_labels)
    words = original[original >= NUM_SPECIAL].numpy()
    share = np.bincount(words) / len(words)
    unigram_entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    left, right = original[:, 1:-1].flatten().numpy(), original[:, 2:].flatten().numpy()
    both = (left >= NUM_SPECIAL) & (right >= NUM_SPECIAL)
    pairs = np.bincount(left[both] * 1024 + right[both], minlength=1024 * 1024).reshape(1024, 1024) / both.sum()
    joint = -(pairs[pairs > 0] * np.log(pairs[pairs > 0])).sum()
    marginal = pairs.sum(1)
    bigram_entropy = joint + (marginal[marginal > 0] * np.log(marginal[marginal > 0])).sum()
    assert unigram_entropy > 5
    assert bigram_entropy < unigram_entropy / 3

    topic = (original - NUM_SPECIAL).div(SyntheticLanguage.ROLES, rounding_mode="floor")
    same = topic[:, 1] == topic[:, -2]
    assert torch.equal(same, batch.next_sentence_labels == 0)
    assert 0.48 < same.float().mean() < 0.52
