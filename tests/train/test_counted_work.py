"""Counters are exact: equal in every count, equal to what follows from the model's shapes, and changed by a change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

from perf.judge import exact
from perf.records.sessions import StepCounters
from perf.runner.counters import count_step
from perf.seam import Case
from perf.train import trainer
from perf.train.data import SyntheticLanguage
from perf.train.kernel import train_step
from perf.train.workloads import BERT_CONFIGS, BertConfig

CASE = Case(global_batch_size=16, micro_batch_size=8)


def count(workload: BertConfig, case: Case = CASE) -> StepCounters:
    """Count a step."""
    step = trainer.Trainer(workload, case, SyntheticLanguage(workload, seed=0))
    return count_step(step, torch.device("cpu"))


def counter_differences(before: StepCounters, after: StepCounters, *, python_calls: bool = True) -> list[str]:
    """Return how the counters of two steps differ."""
    found, changed = msgspec.structs.asdict(before), msgspec.structs.asdict(after)
    return exact.counter_differences(found, changed, python_calls=python_calls)


@pytest.fixture
def before(workload: BertConfig) -> StepCounters:
    """The counters of an unchanged step."""
    return count(workload)


def test_every_count_is_the_same(workload: BertConfig, before: StepCounters) -> None:
    """Counting again finds no difference, on any number of threads, and leaves their number alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = count(workload)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert counter_differences(before, again) == []
    assert before == again


def analytic_flops(workload: BertConfig, num_samples: int) -> int:
    """Return what a step must cost by its shapes: two FLOPs a multiply-add.

    Backward twice the forward, attention 2.5 x.
    """
    hidden, seq, wide = workload.hidden_size, workload.seq_len, workload.intermediate_size
    masked, read = workload.masked_per_sample, workload.masked_per_sample + 1
    rows = -(-workload.vocab_size // 64) * 64
    feed_forward = 2 * hidden * wide
    linear = (workload.num_layers - 1) * seq * (4 * hidden * hidden + feed_forward)
    linear += read * (2 * hidden * hidden + feed_forward) + seq * 2 * hidden * hidden
    linear += hidden * hidden + 2 * hidden + masked * (hidden * hidden + hidden * rows)
    attention = ((workload.num_layers - 1) * seq + read) * seq * hidden
    return num_samples * (3 * 2 * linear + 7 * 2 * attention)


@pytest.mark.parametrize("name", ["small", "pico"])
def test_flops_follow_from_the_shapes(workload: BertConfig, name: str) -> None:
    """The counted FLOPs are those of the matrix products and the attention, to the last one."""
    workload = BERT_CONFIGS.get(name, msgspec.structs.replace(workload, dropout=0.0))
    counted = count(workload).flops
    assert counted == analytic_flops(workload, 16)


def test_the_sums_are_what_they_say(workload: BertConfig, before: StepCounters) -> None:
    """One update a step, no host sync, each parameter once, and less in use at a time than handed out in all."""
    model = trainer.Trainer(workload, CASE, SyntheticLanguage(workload, seed=0)).model
    assert before.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert before.optimizer_updates == 1
    assert before.host_syncs == 0
    assert 0 < before.peak_bytes < before.allocated_bytes


Step = Callable[..., torch.Tensor]


def with_extra_copy(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Copy the input once for nothing."""
    torch.empty_like(args[2].input_ids).copy_(args[2].input_ids)
    return train_step(*args, **kwargs)


def with_host_sync(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Look at the loss."""
    loss = train_step(*args, **kwargs)
    loss.item()
    return loss


def with_second_forward(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Compute the batch once more."""
    batch = args[2]
    with torch.no_grad():
        args[0](batch.input_ids, batch.token_type_ids, batch.masked_positions)
    return train_step(*args, **kwargs)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (with_extra_copy, {"+1 aten::copy_", "+1 aten::empty_like"}),
        (with_host_sync, {"+1 host_syncs", "+1 aten::_local_scalar_dense"}),
        (with_second_forward, {"+3 aten::gelu"}),
    ],
)
def test_a_change_in_the_step_is_named(
    workload: BertConfig, before: StepCounters, monkeypatch: pytest.MonkeyPatch, changed: Step, named: set[str]
) -> None:
    """An extra copy, a host sync and a second forward pass are each found, by name."""
    monkeypatch.setattr(trainer, "train_step", changed)
    found = counter_differences(before, count(workload))
    assert named <= set(found)
    assert any("python_calls" in text for text in found)


def test_a_lost_set_to_none_is_named(
    workload: BertConfig, before: StepCounters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients zeroed in place instead of dropped show as zeroing operations and as additions to what was zeroed."""
    original = torch.optim.AdamW.zero_grad
    monkeypatch.setattr(torch.optim.AdamW, "zero_grad", lambda self, set_to_none: original(self, set_to_none=False))
    found = counter_differences(before, count(workload))
    assert any("aten::_foreach_zero_" in text or "aten::zero_" in text for text in found)


def test_a_larger_micro_batch_count_is_named(workload: BertConfig, before: StepCounters) -> None:
    """The same batch in twice as many micro-batches: the same FLOPs and updates, every operation of a pass again."""
    found = counter_differences(before, count(workload, Case(global_batch_size=16, micro_batch_size=4)))
    assert "+2 aten::embedding" in found
    assert not any(text.endswith((" flops", " optimizer_updates", " parameters")) for text in found)


def test_differences_say_what_was_lost_too(before: StepCounters) -> None:
    """An operation that is gone is named with a minus; equal counters have no differences."""
    without = {name: number for name, number in before.ops.items() if name != "aten::gelu"}
    found = counter_differences(before, msgspec.structs.replace(before, ops=without))
    assert found == [f"-{before.ops['aten::gelu']} aten::gelu"]
    calls = msgspec.structs.replace(before, python_calls=before.python_calls + 7)
    assert counter_differences(before, calls) == ["+7 python_calls"]
    assert counter_differences(before, calls, python_calls=False) == []
