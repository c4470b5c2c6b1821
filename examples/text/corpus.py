"""Sentence pairs from real text: what the built-in trainer takes instead of its synthetic language."""

import hashlib
import pydoc_data.topics
import re

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from perf.train.data import SPECIAL_TOKENS, IntArray, Source
from perf.train.workloads import BertConfig

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n")


def help_topics() -> str:
    """Return Python's own help topics: half a megabyte of English that is there wherever Python is."""
    return "\n\n".join(pydoc_data.topics.topics.values())


class TextCorpus(Source):
    """Sentence pairs from a text, in an order shuffled anew each epoch.

    The text is one stream of tokens. A sample belongs to a place where a sentence begins: its second sentence begins
    there, or at another such place, and its first ends just before it. Both are cut to fill `seq_len`. The vocabulary
    is trained on the text; `seed` is of order, pairs and masks.

    Raises:
        ValueError: there is too little text, or it has more characters than the vocabulary has places.
    """

    def __init__(self, text: str, config: BertConfig, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        sentences = [sentence for sentence in SENTENCE_END.split(text) if sentence.strip()]
        token_lists = encode(sentences, config.vocab_size)
        self.tokens = np.array([token for tokens in token_lists for token in tokens], dtype=np.int64)
        self.identity = f"text {hashlib.sha256(self.tokens.tobytes()).hexdigest()}"
        starts = np.cumsum([0, *map(len, token_lists)])
        # A whole sample must fit on either side of every place.
        fits = (starts >= config.seq_len) & (starts <= len(self.tokens) - config.seq_len)
        self.places = np.unique(starts[fits])
        if len(self.places) < 2:
            raise ValueError(
                f"{len(self.tokens)} tokens in {len(sentences)} sentences: too few for samples of {config.seq_len} "
                "tokens; give more text, with sentences that end in . ! ? or an empty line"
            )

    def pairs(self, rng: np.random.Generator, start: int, len_a: IntArray, unrelated: IntArray) -> IntArray:
        """Return the sentences of samples from `start` on; see `Source.pairs`."""
        epoch, index = np.divmod(start + np.arange(len(len_a)), len(self.places))
        place = np.concatenate([self.order(number)[index[epoch == number]] for number in np.unique(epoch)])
        elsewhere = (place + rng.integers(1, len(self.places), size=len(place))) % len(self.places)
        first_end = self.places[place][:, None]
        second_begin = self.places[np.where(unrelated == 1, elsewhere, place)][:, None]
        position, len_a = np.arange(self.workload.seq_len), len_a[:, None]
        from_first = first_end - len_a + position - 1
        from_second = second_begin + position - len_a - 2
        # The three special positions get some token that the caller overwrites.
        return self.tokens[np.where(position <= len_a, from_first, np.maximum(from_second, 0))]

    def order(self, epoch: int) -> IntArray:
        """Return the numbers of the places in the order in which an epoch comes to them."""
        return np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.places))


def encode(sentences: list[str], vocab_size: int) -> list[list[int]]:
    """Train a lower-case WordPiece vocabulary on `sentences`, and return the tokens of each."""
    learner = tokenizer(models.WordPiece(unk_token="[UNK]"))
    characters = sorted(set(learner.normalizer.normalize_str("".join(sentences))) - {" "})
    # The trainer numbers word-internal characters in the order of a hash table, and ties go by number. Named here,
    # they have the same numbers in every process, and so the same text gives the same vocabulary.
    first = [*SPECIAL_TOKENS, *(f"##{character}" for character in characters)]
    if len(first) + len(characters) > vocab_size:
        raise ValueError(
            f"{len(characters)} different characters need {len(first) + len(characters)} places in the vocabulary, "
            f"and it has {vocab_size}; use a larger one"
        )
    learner.train_from_iterator(
        sentences, trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=first, show_progress=False)
    )
    # A tokenizer of its own: to the learner "##e" is a special token, which it would also find in the text.
    encoder = tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
    return [encoding.ids for encoding in encoder.encode_batch(sentences)]


def tokenizer(model: models.WordPiece) -> Tokenizer:
    """Return a tokenizer that splits text as BERT's does."""
    made = Tokenizer(model)
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made
