"""The registry holds what the design names, and each of its workloads can work."""

from __future__ import annotations

import math
from typing import Any

import pytest

from perf.seam import Case
from perf.train.data import NUM_SPECIAL, SyntheticLanguage
from perf.train.workloads import BERT_CONFIGS, WORKLOADS, default_workload


def test_the_reference_example_is_there_in_full() -> None:
    """BERT-large at sequence length 128, with the published sizes, batch sizes and intervals."""
    large = BERT_CONFIGS["bert-large-msl128"]
    assert (large.num_layers, large.hidden_size, large.num_heads, large.intermediate_size) == (24, 1024, 16, 4096)
    assert (large.vocab_size, large.max_positions, large.seq_len, large.masked_per_sample) == (30522, 512, 128, 20)
    assert (large.dropout, large.weight_decay, large.max_grad_norm) == (0.1, 0.01, 1.0)
    assert set(large.global_batch_sizes) == {512, 1024, 2048}
    assert (large.max_steps, large.log_steps) == (1000, 100)


@pytest.mark.parametrize("workload", BERT_CONFIGS.values(), ids=lambda workload: workload.name)
def test_every_workload_can_work_and_says_why_it_exists(workload: Any) -> None:
    """15 % of the tokens, rounded up; sizes that fit each other; a reason in words; found under its own name."""
    assert workload.masked_per_sample == math.ceil(0.15 * workload.seq_len) <= workload.seq_len - 3
    assert workload.hidden_size % workload.num_heads == 0
    assert workload.seq_len <= workload.max_positions
    assert (workload.vocab_size - NUM_SPECIAL) // SyntheticLanguage.ROLES >= 2, "an unrelated sentence needs a topic"
    assert len(workload.why.split()) > 4
    assert BERT_CONFIGS[workload.name] is workload


def test_defaults_by_device() -> None:
    """The main job trains pico on a CPU and the reference example on a GPU."""
    assert default_workload("cpu") == "pico"
    assert default_workload("cuda") == "bert-large-msl128"


def test_a_built_in_workload_is_built_through_the_seam() -> None:
    """Its step learns, its losses follow from the seed, and it says what decides its work."""
    workload = WORKLOADS["pico"]
    step = workload(Case(global_batch_size=8, micro_batch_size=8))
    losses = [float(step()) for _ in range(3)]
    assert losses[2] < losses[0]
    again = workload(Case(global_batch_size=8, micro_batch_size=8))
    assert [float(again()) for _ in range(3)] == losses
    assert workload.about["hidden_size"] == 32
    assert workload.global_batch_sizes == (512, 1024, 2048)
