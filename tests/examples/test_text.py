"""The text of the example becomes sentence pairs: each place once an epoch, repeatable, no sample from nowhere."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from perf.train.data import CLS, SEP, Batch
from perf.train.workloads import BERT_CONFIGS

if TYPE_CHECKING:
    from examples.text.corpus import TextCorpus

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "text"
PICO = BERT_CONFIGS["pico"]


@pytest.fixture(scope="module")
def example() -> Any:
    """Return the example's module of the corpus."""
    pytest.importorskip("tokenizers", reason="needs the text extra: pip install 'stepmark[text]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        return importlib.import_module("corpus")


@pytest.fixture(scope="module")
def corpus(example: Any) -> TextCorpus:
    """Return Python's help topics, ready for pico."""
    return example.TextCorpus(example.help_topics(), PICO, seed=0)


def sentences(batch: Batch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the two sentences of each sample, as they were before masking."""
    original = batch.input_ids.scatter(1, batch.masked_positions, batch.masked_labels)
    result = []
    for row in original.tolist():
        assert row[0] == CLS
        assert row[-1] == SEP
        cut = row.index(SEP)
        result.append((tuple(row[1:cut]), tuple(row[cut + 1 : -1])))
    return result


def test_every_place_comes_once_an_epoch_in_another_order_each_time(corpus: TextCorpus) -> None:
    """The first sentences of an epoch end at every place exactly once; the next epoch is shuffled anew."""
    length = len(corpus.places)
    assert length > 3000
    orders = [corpus.order(epoch).tolist() for epoch in range(2)]
    assert all(sorted(order) == list(range(length)) for order in orders)
    assert orders[0] != orders[1]
    # The order is what the samples follow, across the boundary between the epochs too.
    batch = corpus.batch(position=length - 2, num_samples=4)
    tokens = corpus.tokens.tolist()
    for (first, _), place in zip(sentences(batch), orders[0][-2:] + orders[1][:2], strict=True):
        end = corpus.places[place]
        assert list(first) == tokens[end - len(first) : end]


def test_the_second_sentence_follows_unless_it_is_unrelated(corpus: TextCorpus) -> None:
    """Label 0: the two are one stretch of the text.

    Label 1: they are not, and the second begins a sentence elsewhere.
    """
    batch = corpus.batch(position=0, num_samples=500)
    tokens = corpus.tokens.astype(np.uint16)
    stream = tokens.tobytes()
    beginnings = {tokens[place : place + 8].tobytes() for place in corpus.places}
    for (first, second), label in zip(sentences(batch), batch.next_sentence_labels.tolist(), strict=True):
        assert (np.array(first + second, dtype=np.uint16).tobytes() in stream) == (label == 0)
        if len(second) >= 8:
            assert np.array(second[:8], dtype=np.uint16).tobytes() in beginnings
    assert 0.4 < batch.next_sentence_labels.float().mean() < 0.6


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_same_text_gives_the_same_tokens_in_any_process(corpus: TextCorpus, hash_seed: str) -> None:
    """Another process trains the same vocabulary, so it reads the text as the same tokens."""
    code = (
        "import corpus; from perf.train import workloads; "
        "print(corpus.TextCorpus(corpus.help_topics(), workloads.BERT_CONFIGS['pico'], seed=3).identity)"
    )
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{EXAMPLE}", "PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == corpus.identity


def test_another_text_has_another_identity(example: Any, corpus: TextCorpus) -> None:
    """What a checkpoint records of the data follows its content."""
    shorter = example.TextCorpus(example.help_topics()[:-100], PICO, seed=0)
    assert shorter.identity != corpus.identity


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("One sentence. Another.", "too few for samples of 32 tokens; give more text"),
        (
            " ".join(map(chr, range(0x4E00, 0x4E00 + 3000))),
            "3000 different characters need 6005 places in the vocabulary, and it has 1024",
        ),
    ],
)
def test_unusable_text_is_told(example: Any, text: str, message: str) -> None:
    """Too little text, and too many characters: each with its own message and what to do."""
    with pytest.raises(ValueError, match=message):
        example.TextCorpus(text, PICO, seed=0)


def test_a_small_text_repeats_within_a_block(example: Any) -> None:
    """A text with fewer places than a block has samples: epoch after epoch in one block, each in its order."""
    corpus = example.TextCorpus(example.help_topics()[:10_000], msgspec.structs.replace(PICO, vocab_size=300), seed=0)
    length = len(corpus.places)
    assert 2 < length < 100
    tokens = corpus.tokens.tolist()
    expected = [corpus.places[place] for epoch in range(3) for place in corpus.order(epoch)]
    for (first, _), end in zip(sentences(corpus.batch(position=0, num_samples=3 * length)), expected, strict=True):
        assert list(first) == tokens[end - len(first) : end]


def test_without_tokenizers_the_example_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizers package is optional, and its absence is a reason."""
    monkeypatch.syspath_prepend(EXAMPLE)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tokenizers" else find_spec(name, *rest)
    )
    monkeypatch.delitem(sys.modules, "bench_text", raising=False)
    with pytest.raises(unittest.SkipTest, match="pip install tokenizers"):
        importlib.import_module("bench_text")
