"""Batches for masked-language-model and next-sentence pre-training, from a synthetic language or from text files.

Sample number ``i`` of a source is a pure function of the seed and ``i``. So the data position is one integer, every
batch size and every number of ranks sees the same stream, and a resumed run draws the batch the stopped one would have.
Samples are always full (``[CLS] A [SEP] B [SEP]`` fills ``seq_len`` exactly), so no step spends time on padding.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from perf.errors import DataError
from perf.train.workloads import BertConfig

PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NUM_SPECIAL = len(SPECIAL_TOKENS)

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n\s*\n")

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Samples ready for the model; all int64. B samples, S tokens each, P of them to predict."""

    input_ids: Tensor  # (B, S) tokens, masked
    token_type_ids: Tensor  # (B, S) 0 in the first sentence, 1 in the second
    masked_positions: Tensor  # (B, P) where the tokens to predict stand, ascending
    masked_labels: Tensor  # (B, P) the tokens that stood there
    next_sentence_labels: Tensor  # (B,) 0 when the second sentence follows the first, 1 when it does not

    def __len__(self) -> int:
        return len(self.input_ids)

    def slice(self, start: int, stop: int) -> Batch:
        """Return samples `start` to `stop` (exclusive), without copying."""
        return Batch(**{field.name: getattr(self, field.name)[start:stop] for field in fields(self)})

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`; the copy to a GPU overlaps with what the GPU still has to do."""
        if device.type == "cpu":
            return self
        return Batch(**{f.name: getattr(self, f.name).pin_memory().to(device, non_blocking=True) for f in fields(self)})


class Source(ABC):
    """An addressable stream of samples."""

    name: str  # what the output calls it
    identity: str  # what a checkpoint records, and a resumed run must match
    samples_per_epoch: int | None = None  # samples in one pass over the data; None when it has no end

    BLOCK_SAMPLES = 256
    """Samples are drawn in blocks with a generator each: large enough for numpy, small enough to waste little."""

    def __init__(self, workload: BertConfig, *, seed: int) -> None:
        self.workload = workload
        self.seed = seed

    def batch(self, *, position: int, num_samples: int) -> Batch:
        """Return samples `position` to ``position + num_samples``."""
        first, last = position // self.BLOCK_SAMPLES, (position + num_samples - 1) // self.BLOCK_SAMPLES
        blocks = [self._block(index) for index in range(first, last + 1)]
        offset = position - first * self.BLOCK_SAMPLES
        columns = (np.concatenate(column)[offset : offset + num_samples] for column in zip(*blocks, strict=True))
        return Batch(**{f.name: torch.from_numpy(column) for f, column in zip(fields(Batch), columns, strict=True)})

    def _block(self, index: int) -> tuple[IntArray, ...]:
        rng = np.random.default_rng([self.seed, index])
        seq_len = self.workload.seq_len
        # The first sentence takes a quarter to three quarters of the room that three special tokens leave.
        len_a = rng.integers((seq_len - 3) // 4, 3 * (seq_len - 3) // 4 + 1, size=self.BLOCK_SAMPLES)
        unrelated = rng.integers(0, 2, size=self.BLOCK_SAMPLES)
        tokens = self._pairs(rng, index * self.BLOCK_SAMPLES, len_a, unrelated)
        position, first_sep = np.arange(seq_len), len_a[:, None] + 1
        special = (position == 0) | (position == first_sep) | (position == seq_len - 1)
        tokens[special] = SEP
        tokens[:, 0] = CLS
        token_types = (position > first_sep).astype(np.int64)
        input_ids, positions, labels = mask_tokens(rng, tokens, special, self.workload)
        return input_ids, token_types, positions, labels, unrelated

    @abstractmethod
    def _pairs(self, rng: np.random.Generator, start: int, len_a: IntArray, unrelated: IntArray) -> IntArray:
        """Return (N, S) tokens: row ``n`` is sample ``start + n``.

        The first sentence belongs at 1 to ``len_a`` and the second from ``len_a + 2`` to ``S - 2``; what stands at
        the three special positions is overwritten. Where `unrelated` is 1 the second must not follow the first.
        """


def mask_tokens(
    rng: np.random.Generator, tokens: IntArray, special: npt.NDArray[np.bool_], workload: BertConfig
) -> tuple[IntArray, IntArray, IntArray]:
    """Choose ``masked_per_sample`` tokens of each row; 80 % become [MASK], 10 % a random token, 10 % stay.

    Args:
        rng: where the choices come from.
        tokens: (N, S) tokens; left as they are.
        special: (N, S), true where a token may not be chosen.
        workload: gives the number to choose and the vocabulary.

    Returns:
        The masked tokens (N, S), the chosen positions (N, P) in ascending order and the tokens there (N, P).
    """
    score = rng.random(tokens.shape, dtype=np.float32)
    score[special] = 2.0
    num_masked = workload.masked_per_sample
    positions = np.sort(np.argpartition(score, num_masked - 1, axis=1)[:, :num_masked], axis=1)
    labels = np.take_along_axis(tokens, positions, axis=1)
    random_tokens = rng.integers(NUM_SPECIAL, workload.vocab_size, size=positions.shape)
    fate = rng.random(positions.shape)
    replaced = np.where(fate < 0.8, MASK, np.where(fate < 0.9, random_tokens, labels))
    masked = tokens.copy()
    np.put_along_axis(masked, positions, replaced, axis=1)
    return masked, positions, labels


class SyntheticLanguage(Source):
    """A seeded language that a small model can learn.

    A word is a topic and a role: token ``NUM_SPECIAL + topic * ROLES + role``. Topics are Zipf-distributed. Within a
    sentence the topic stays and the role moves on by one, except that one step in ten jumps to a random role. So a
    hidden word follows from its neighbours, far below the entropy of single words, and a second sentence that does
    not follow the first has another topic.
    """

    ROLES = 8
    JUMP = 0.1

    name = "synthetic"
    identity = "synthetic language 1"

    def __init__(self, workload: BertConfig, *, seed: int) -> None:
        super().__init__(workload, seed=seed)
        num_topics = (workload.vocab_size - NUM_SPECIAL) // self.ROLES
        weight = 1.0 / np.arange(1, num_topics + 1)
        self._topic_cdf = np.cumsum(weight / weight.sum())
        self._topic_cdf[-1] = 1.0

    def _pairs(self, rng: np.random.Generator, start: int, len_a: IntArray, unrelated: IntArray) -> IntArray:
        shape = len(len_a), self.workload.seq_len
        topic_a, topic_b = np.searchsorted(self._topic_cdf, rng.random((2, len(len_a))), side="right")
        topic_b = np.where(topic_b == topic_a, (topic_b + 1) % len(self._topic_cdf), topic_b)
        topic_b = np.where(unrelated == 1, topic_b, topic_a)
        advance = np.where(rng.random(shape) < self.JUMP, rng.integers(0, self.ROLES, size=shape), 1)
        advance[:, 0] = rng.integers(0, self.ROLES, size=shape[0])
        role = np.cumsum(advance, axis=1) % self.ROLES
        topic = np.where(np.arange(shape[1]) <= len_a[:, None], topic_a[:, None], topic_b[:, None])
        tokens: IntArray = NUM_SPECIAL + topic * self.ROLES + role
        return tokens


class TextCorpus(Source):
    """Sentence pairs from text files, in an order shuffled anew each epoch.

    The files are one stream of tokens. A sample belongs to a place where a sentence begins: its second sentence
    begins there, or at another such place, and its first ends just before it. Both are cut to fill `seq_len`. The
    vocabulary is trained on the files, which are UTF-8; `seed` is of order, pairs and masks.

    Raises:
        DataError: a file cannot be read as text, or there is too little of it.
    """

    name = "text"

    def __init__(self, paths: list[Path], workload: BertConfig, *, seed: int) -> None:
        super().__init__(workload, seed=seed)
        texts = [_read(path) for path in paths]
        sentences = [s for text in texts for s in _SENTENCE_END.split(text) if s.strip()]
        token_lists, vocabulary_digest = _encode(sentences, workload.vocab_size)
        self.identity = f"text {_sha256(chr(0).join(texts))}, vocabulary {vocabulary_digest}"
        self._tokens = np.array([token for tokens in token_lists for token in tokens], dtype=np.int64)
        starts = np.cumsum([0, *map(len, token_lists)])
        # A whole sample must fit on either side of every place.
        fits = (starts >= workload.seq_len) & (starts <= len(self._tokens) - workload.seq_len)
        self._places = np.unique(starts[fits])
        if len(self._places) < 2:
            raise DataError(
                f"{', '.join(map(str, paths))}: {len(self._tokens)} tokens in {len(sentences)} sentences, too few for "
                f"samples of {workload.seq_len} tokens; give more text, with sentences that end in . "
                "! ? or an empty line"
            )
        self.samples_per_epoch = len(self._places)
        self._orders: dict[int, IntArray] = {}

    def _pairs(self, rng: np.random.Generator, start: int, len_a: IntArray, unrelated: IntArray) -> IntArray:
        num_places = len(self._places)
        epoch, index = np.divmod(start + np.arange(len(len_a)), num_places)
        self._orders = {e: self._orders[e] if e in self._orders else self._order(e) for e in np.unique(epoch).tolist()}
        place = np.array([self._orders[e][i] for e, i in zip(epoch.tolist(), index.tolist(), strict=True)])
        elsewhere = (place + rng.integers(1, num_places, size=len(place))) % num_places
        first_end = self._places[place][:, None]
        second_begin = self._places[np.where(unrelated == 1, elsewhere, place)][:, None]
        position, len_a = np.arange(self.workload.seq_len), len_a[:, None]
        in_first = position <= len_a
        from_first = first_end - len_a + position - 1
        from_second = second_begin + position - len_a - 2
        # The three special positions get some token that the caller overwrites.
        tokens: IntArray = self._tokens[np.where(in_first, from_first, np.maximum(from_second, 0))]
        return tokens

    def _order(self, epoch: int) -> IntArray:
        return np.random.default_rng([self.seed, 0, epoch]).permutation(len(self._places))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8; give text files in UTF-8 (iconv -t utf-8 converts)"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a text file") from None


def _encode(sentences: list[str], vocab_size: int) -> tuple[list[list[int]], str]:
    """Train a lower-case WordPiece vocabulary on `sentences`.

    Return the tokens of each, and the vocabulary's digest.
    """
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    except ImportError:
        raise DataError("--text needs the tokenizers package; install it with: pip install 'stepmark[text]'") from None

    def tokenizer_for(model: models.WordPiece) -> Any:
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer

    learner = tokenizer_for(models.WordPiece(unk_token="[UNK]"))
    characters = sorted(set(learner.normalizer.normalize_str("".join(sentences))) - {" "})
    # The trainer numbers word-internal characters in the order of a hash table, and ties go by number. Named here,
    # they have the same numbers in every process, and so the same text gives the same vocabulary.
    first = [*SPECIAL_TOKENS, *(f"##{character}" for character in characters)]
    if len(first) + len(characters) > vocab_size:
        raise DataError(
            f"--text: {len(characters)} different characters need {len(first) + len(characters)} places in the "
            f"vocabulary, and the workload's has {vocab_size}; use a workload with a larger one"
        )
    learner.train_from_iterator(
        sentences, trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=first, show_progress=False)
    )
    vocabulary = learner.get_vocab()
    # A tokenizer of its own: to the learner "##e" is a special token, which it would also find in the text.
    encodings = tokenizer_for(models.WordPiece(vocabulary, unk_token="[UNK]")).encode_batch(sentences)
    in_order = "\n".join(sorted(vocabulary, key=vocabulary.__getitem__))
    return [encoding.ids for encoding in encodings], _sha256(in_order)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
