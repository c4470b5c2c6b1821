"""Real text as training data: files, a WordPiece vocabulary trained on them, and sentence pairs."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from perf.errors import DataError
from perf.train.data import SPECIAL_TOKENS, IntArray, Source
from perf.train.workloads import BertConfig

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n\s*\n")


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
