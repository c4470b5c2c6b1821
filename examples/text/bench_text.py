"""The built-in BERT on real text: Python's own help topics, in place of the synthetic language.

Needs: pip install tokenizers.
"""

import importlib.util
import unittest

import perf
from perf.train.trainer import measured_trainer
from perf.train.workloads import BERT_CONFIGS

if importlib.util.find_spec("tokenizers") is None:
    raise unittest.SkipTest("bench_text.py trains a vocabulary: pip install tokenizers")

from corpus import TextCorpus, help_topics

CONFIG = BERT_CONFIGS["pico"]


@perf.workload(global_batch_sizes=(64, 256))
def bert(case):
    """Train pico's BERT on sentence pairs from Python's help topics."""
    return measured_trainer(CONFIG, case, TextCorpus(help_topics(), CONFIG, seed=case.seed))
