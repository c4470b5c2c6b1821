"""The registry holds what the design names, and a workload that cannot work is refused at birth."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from perf.seam import Case
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
def test_every_workload_hides_15_percent_and_says_why_it_exists(workload: Any) -> None:
    """15 % of the tokens, rounded up; a reason in words; found under its own name."""
    assert workload.masked_per_sample == math.ceil(0.15 * workload.seq_len)
    assert len(workload.why.split()) > 4
    assert BERT_CONFIGS[workload.name] is workload


def test_defaults_by_device() -> None:
    """The main job trains pico on a CPU and the reference example on a GPU."""
    assert default_workload("cpu") == "pico"
    assert default_workload("cuda") == "bert-large-msl128"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers=0, at least 1"),
        ({"hidden_size": 33}, "hidden_size=33 is not divisible by num_heads=2"),
        ({"seq_len": 64}, "seq_len=64 exceeds max_positions=32"),
        ({"masked_per_sample": 30}, "masked_per_sample=30, but of seq_len=32 tokens 3 are special"),
        ({"global_batch_sizes": ()}, "global_batch_sizes is empty"),
    ],
)
def test_a_workload_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    """The error names the workload, the field and the rule."""
    with pytest.raises(ValueError, match=f"workload pico: {message}"):
        dataclasses.replace(BERT_CONFIGS["pico"], **changes)


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
