"""Batches for masked-language-model and next-sentence pre-training, from a synthetic language.

Sample number ``i`` of a source is a pure function of the seed and ``i``. So the data position is one integer, every
batch size and every number of ranks sees the same stream, and a resumed run draws the batch the stopped one would have.
Samples are always full (``[CLS] A [SEP] B [SEP]`` fills ``seq_len`` exactly), so no step spends time on padding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from perf.train.workloads import BertConfig

PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NUM_SPECIAL = len(SPECIAL_TOKENS)

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

    identity: str  # what a checkpoint records, and a resumed run must match

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
        tokens = self.pairs(rng, index * self.BLOCK_SAMPLES, len_a, unrelated)
        position, first_sep = np.arange(seq_len), len_a[:, None] + 1
        special = (position == 0) | (position == first_sep) | (position == seq_len - 1)
        tokens[special] = SEP
        tokens[:, 0] = CLS
        token_types = (position > first_sep).astype(np.int64)
        input_ids, positions, labels = mask_tokens(rng, tokens, special, self.workload)
        return input_ids, token_types, positions, labels, unrelated

    @abstractmethod
    def pairs(self, rng: np.random.Generator, start: int, len_a: IntArray, unrelated: IntArray) -> IntArray:
        """Return (N, S) tokens: row ``n`` is sample ``start + n``.

        The first sentence belongs at 1 to ``len_a`` and the second from ``len_a + 2`` to ``S - 2``; what stands at
        the three special positions is overwritten. Where `unrelated` is 1 the second must not follow the first.
        """


def mask_tokens(
    rng: np.random.Generator,
    tokens: IntArray,  # (N, S), left as they are
    special: npt.NDArray[np.bool_],  # (N, S), true where a token may not be chosen
    workload: BertConfig,
) -> tuple[IntArray, IntArray, IntArray]:
    """Choose ``masked_per_sample`` tokens of each row; 80 % become [MASK], 10 % a random token, 10 % stay.

    Returns the masked tokens (N, S), the chosen positions (N, P) in ascending order and the tokens there (N, P).
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
    identity = "synthetic language 1"

    def __init__(self, workload: BertConfig, *, seed: int) -> None:
        super().__init__(workload, seed=seed)
        num_topics = (workload.vocab_size - NUM_SPECIAL) // self.ROLES
        weight = 1.0 / np.arange(1, num_topics + 1)
        self._topic_cdf = np.cumsum(weight / weight.sum())
        self._topic_cdf[-1] = 1.0

    def pairs(self, rng: np.random.Generator, start: int, len_a: IntArray, unrelated: IntArray) -> IntArray:
        """Return sentences of a topic each; see `Source.pairs`."""
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
