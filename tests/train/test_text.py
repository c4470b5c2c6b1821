"""Real text becomes sentence pairs: every place once an epoch, repeatable, and never a sample from nowhere."""

from __future__ import annotations

import pydoc_data.topics
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from perf.errors import DataError
from perf.train.config import RunConfig, plan_run
from perf.train.data import CLS, SEP, Batch, TextCorpus
from perf.train.devices import World
from perf.train.loop import run_steps
from perf.train.workloads import BERT_CONFIGS

pytest.importorskip("tokenizers", reason="needs the text extra: pip install 'stepmark[text]'")

PICO = BERT_CONFIGS["pico"]


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The help topics that come with Python, as a text file."""
    path = tmp_path_factory.mktemp("text") / "topics.txt"
    path.write_text("\n\n".join(pydoc_data.topics.topics.values()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def corpus(topics: Path) -> TextCorpus:
    """The same, ready for pico."""
    return TextCorpus([topics], PICO, seed=0)


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
    length = corpus.samples_per_epoch
    assert length is not None
    assert length > 3000
    places = []
    for epoch in range(2):
        order = corpus._order(epoch)
        assert sorted(order) == list(range(length))
        places.append(order.tolist())
    assert places[0] != places[1]
    # The order is what the samples follow, across the boundary between the epochs too.
    batch = corpus.batch(position=length - 2, num_samples=4)
    tokens = corpus._tokens.tolist()
    for (first, _), place in zip(sentences(batch), places[0][-2:] + places[1][:2], strict=True):
        end = corpus._places[place]
        assert list(first) == tokens[end - len(first) : end]


def test_the_second_sentence_follows_unless_it_is_unrelated(corpus: TextCorpus) -> None:
    """Label 0: the two are one stretch of the text.

    Label 1: they are not, and the second begins a sentence elsewhere.
    """
    batch = corpus.batch(position=0, num_samples=500)
    tokens = corpus._tokens.astype(np.uint16)
    stream = tokens.tobytes()
    beginnings = {tokens[place : place + 8].tobytes() for place in corpus._places}
    for (first, second), label in zip(sentences(batch), batch.next_sentence_labels.tolist(), strict=True):
        assert (np.array(first + second, dtype=np.uint16).tobytes() in stream) == (label == 0)
        if len(second) >= 8:
            assert np.array(second[:8], dtype=np.uint16).tobytes() in beginnings
    assert 0.4 < batch.next_sentence_labels.float().mean() < 0.6


def test_the_same_files_give_the_same_samples_and_others_another_identity(corpus: TextCorpus, topics: Path) -> None:
    """Vocabulary and samples are repeatable in any process; the identity follows the content, not the name."""
    again = TextCorpus([topics], PICO, seed=0)
    assert again.identity == corpus.identity, "the vocabulary is part of it"
    assert torch.equal(
        again.batch(position=100, num_samples=50).input_ids, corpus.batch(position=100, num_samples=50).input_ids
    )
    shorter = topics.with_name("shorter.txt")
    shorter.write_text(topics.read_text(encoding="utf-8")[:-1], encoding="utf-8")
    assert TextCorpus([shorter], PICO, seed=0).identity != corpus.identity


def test_a_run_on_text_learns_and_stops_at_its_epochs(run_config: RunConfig, topics: Path, tmp_path: Path) -> None:
    """One pass over a piece of the text makes as many steps as it holds, and the loss falls."""
    piece = tmp_path / "piece.txt"
    piece.write_text(topics.read_text(encoding="utf-8")[:200_000], encoding="utf-8")
    workload = msgspec.structs.replace(
        run_config.workload, vocab_size=300, dropout=0.0, learning_rate=1e-2, lr_warmup_steps=5, micro_batch_size=32
    )
    config = msgspec.structs.replace(
        run_config, workload=workload, global_batch_size=32, max_steps=None, num_epochs=1, log_steps=1000
    )
    source = TextCorpus([piece], workload, seed=0)
    assert source.samples_per_epoch is not None
    result = run_steps(plan_run(config, source, World()), source, World(), on_line=lambda _: None)
    assert result.end_step == source.samples_per_epoch // 32 > 20
    assert sum(result.losses[-5:]) < 0.95 * sum(result.losses[:5])


def test_a_run_on_text_resumes_across_an_epoch(run_config: RunConfig, topics: Path, tmp_path: Path) -> None:
    """Stopped in the second epoch and resumed by another corpus object: the losses of the uninterrupted run."""
    piece = tmp_path / "piece.txt"
    piece.write_text(topics.read_text(encoding="utf-8")[:20_000], encoding="utf-8")
    workload = msgspec.structs.replace(run_config.workload, vocab_size=300)
    config = msgspec.structs.replace(run_config, workload=workload, max_steps=30, log_steps=1000)

    def losses(config: RunConfig) -> list[float]:
        source = TextCorpus([piece], workload, seed=0)
        assert source.samples_per_epoch is not None
        assert 16 * 10 < source.samples_per_epoch < 16 * 20
        return run_steps(plan_run(config, source, World()), source, World(), on_line=lambda _: None).losses

    whole = losses(config)
    split = msgspec.structs.replace(config, model_dir=tmp_path / "split")
    assert losses(msgspec.structs.replace(split, max_steps=21)) + losses(split) == whole


def test_unusable_files_are_told_apart(tmp_path: Path) -> None:
    """Missing, binary and too short: each with its own message and what to do."""
    binary, short, many = tmp_path / "binary", tmp_path / "short.txt", tmp_path / "many.txt"
    binary.write_bytes(b"abc\xff\xfe")
    short.write_text("One sentence. Another.", encoding="utf-8")
    many.write_text(" ".join(map(chr, range(0x4E00, 0x4E00 + 3000))), encoding="utf-8")
    for path, message in (
        (tmp_path / "missing", "missing: cannot be read .*No such file"),
        (tmp_path, "cannot be read .*Is a directory"),
        (binary, "binary: byte 3 is not UTF-8"),
        (short, "short.txt: .* too few for samples of 32 tokens"),
        (many, "3000 different characters need 6005 places in the vocabulary, and the workload's has 1024"),
    ):
        with pytest.raises(DataError, match=message):
            TextCorpus([path], PICO, seed=0)


def test_without_the_extra_the_error_says_what_to_install(topics: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizers package is optional, and its absence is a message."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"pip install 'stepmark\[text\]'"):
        TextCorpus([topics], PICO, seed=0)
