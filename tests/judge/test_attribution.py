"""The table of differences: each rule on made-up rows, and the culprit first when a real step is made slower."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
import torch
import torch.nn.functional as F
from msgspec import structs

from perf.judge.attribution import Contribution, attribute_difference, phase_totals
from perf.records.wire import PYTHON, STEP_PHASES, PhaseTime
from perf.runner.attribution import attribute
from perf.seam import Case
from perf.train import kernel
from perf.train import trainer as trainer_module
from perf.train.data import IntArray, Source
from perf.train.workloads import BERT_CONFIGS, bert_workload


def row(operation: str, seconds: float, count: float = 1, phase: str = "forward") -> PhaseTime:
    """Return a row."""
    return PhaseTime(phase=phase, operation=operation, count=count, seconds=seconds)


def side(**seconds: Sequence[float]) -> list[list[PhaseTime]]:
    """Return visits with these operations, and one that makes a step of about a second."""
    visits = [list(values) for values in zip(*seconds.values(), strict=True)]
    return [
        [row("rest", 1.0), *(row(name, value) for name, value in zip(seconds, visit, strict=True))] for visit in visits
    ]


def found(contributions: list[Contribution]) -> dict[str, bool]:
    """Return which operations are significant, in order."""
    return {contribution.operation: contribution.is_significant for contribution in contributions}


STILL = (0.100, 0.101, 0.099)


def test_the_median_over_visits_is_compared() -> None:
    """One visit that was disturbed changes nothing; the difference is that of the medians."""
    baseline, candidate = side(a=(0.1, 0.1, 9.0)), side(a=(0.2, 0.0, 0.2))
    contribution = next(c for c in attribute_difference(baseline, candidate) if c.operation == "a")
    assert (contribution.baseline_s, contribution.candidate_s) == (0.1, 0.2)
    assert contribution.difference_s == pytest.approx(0.1)
    assert (contribution.baseline_count, contribution.candidate_count) == (1, 1)


def test_a_changed_count_is_significant_however_short() -> None:
    """An operation that is there once more is named even if it takes next to nothing."""
    baseline = [[row("rest", 1.0), row("a", 1e-6, count=2)]] * 3
    candidate = [[row("rest", 1.0), row("a", 1e-6, count=3)]] * 3
    assert found(attribute_difference(baseline, candidate)) == {"a": True, "rest": False}


def test_what_is_no_part_of_a_step_is_left_out() -> None:
    """Another version may time a checkpoint, and nothing else: it cannot explain the rate of steps."""
    baseline = [[row("rest", 1.0)]] * 3
    candidate = [[row("write", 0.9, phase="checkpoint"), row("rest", 1.0), row("sync", 1e-6)]] * 3
    assert found(attribute_difference(baseline, candidate)) == {"sync": True, "rest": False}
    other = [[row("write", 0.9, phase="checkpoint")]] * 3
    assert attribute_difference(other, other) == []


def test_an_operation_of_one_side_only_counts_as_zero_on_the_other() -> None:
    """New and lost operations are both listed, with no count and no time where they are missing."""
    baseline, candidate = [[row("lost", 0.2, 3)]] * 3, [[row("new", 0.1, 4)]] * 3
    lost, new = attribute_difference(baseline, candidate)
    assert (lost.operation, lost.baseline_count, lost.candidate_count, lost.candidate_s) == ("lost", 3, 0, 0)
    assert (new.operation, new.baseline_count, new.candidate_count, new.baseline_s) == ("new", 0, 4, 0)
    assert lost.is_significant
    assert new.is_significant


def test_the_same_operation_in_another_phase_is_another() -> None:
    """An operation that moves from one phase to another is lost in one and new in the other."""
    baseline, candidate = [[row("a", 0.1, phase="forward")]] * 3, [[row("a", 0.1, phase="backward")]] * 3
    contributions = attribute_difference(baseline, candidate)
    assert {(c.phase, c.difference_s) for c in contributions} == {("forward", -0.1), ("backward", 0.1)}


@pytest.mark.parametrize(
    ("candidate", "is_significant"),
    [
        ((0.1500, 0.1510, 0.1490), True),
        ((0.0500, 0.0510, 0.0490), True),  # faster
        ((0.1045, 0.1055, 0.1035), False),  # less than half a percent of the step, which is 1.1 s
        ((0.1060, 0.1060, 0.1060), True),
        ((0.1500, 0.2000, 0.1000), False),  # within its own spread
    ],
)
def test_a_time_must_change_by_more_than_chance_and_by_enough(
    candidate: tuple[float, ...], is_significant: bool
) -> None:
    """With equal counts, a difference is significant beyond four standard errors and half a percent of the step."""
    assert found(attribute_difference(side(a=STILL), side(a=candidate)))["a"] is is_significant


def test_the_error_is_that_of_medians() -> None:
    """The standard error follows from both sides' median absolute deviations, and one wild visit does not matter."""
    spread = (0.10, 0.11, 0.12, 0.13, 0.14)
    wild = (0.10, 0.11, 0.12, 0.13, 9.00)
    for values in (spread, wild):
        contribution = next(c for c in attribute_difference(side(a=STILL), side(a=values)) if c.operation == "a")
        one_side = 1.2533 * 1.4826 / 5**0.5
        expected = ((one_side * 0.01) ** 2 + (1.2533 * 1.4826 * 0.001) ** 2 / 3) ** 0.5
        assert contribution.standard_error_s == pytest.approx(expected)


def test_a_spread_that_is_small_by_luck_is_not_believed() -> None:
    """Where operations typically spread by a tenth, visits that agree by chance make three tenths no finding."""
    noisy = dict.fromkeys("abcd", (0.27, 0.3, 0.33))
    baseline, candidate = side(**noisy, lucky=(0.1, 0.1, 0.1)), side(**noisy, lucky=(0.13, 0.13, 0.13))
    assert not found(attribute_difference(baseline, candidate))["lucky"]
    quiet = dict.fromkeys("abcd", (0.3, 0.3, 0.3))
    baseline, candidate = side(**quiet, lucky=(0.1, 0.1, 0.1)), side(**quiet, lucky=(0.13, 0.13, 0.13))
    assert found(attribute_difference(baseline, candidate))["lucky"]


def test_the_significant_come_first_and_the_largest_first() -> None:
    """Order: significant by size whatever the sign, then the others by size."""
    wild = (0.0, 0.5, 1.0)
    baseline = side(small=STILL, large=(0.4, 0.4, 0.4), wild=wild, still=STILL)
    candidate = side(small=(0.15, 0.15, 0.15), large=(0.2, 0.2, 0.2), wild=(0.4, 0.9, 1.4), still=STILL)
    contributions = attribute_difference(baseline, candidate)
    assert list(found(contributions).items())[:3] == [("large", True), ("small", True), ("wild", False)]


def test_phase_totals_are_medians_of_sums() -> None:
    """A phase takes the median over visits of all its operations together; a phase without any takes nothing."""
    baseline = [[row("a", 1.0), row(PYTHON, seconds), row("a", 7.0, phase="data")] for seconds in (1.0, 2.0, 9.0)]
    candidate = [[row("a", 2.0), row(PYTHON, 2.5)]] * 3
    totals = {total.phase: total for total in phase_totals(baseline, candidate)}
    assert list(totals) == list(STEP_PHASES)
    assert (totals["forward"].baseline_s, totals["forward"].candidate_s, totals["forward"].difference_s) == (
        3.0,
        4.5,
        1.5,
    )
    assert (totals["data"].baseline_s, totals["data"].candidate_s) == (7.0, 0.0)
    assert totals["clip"].difference_s == 0


# The culprit comes first: a real step, made slower on one side in turns with the other.

VISITS = 7


def with_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the loss of every micro-batch."""
    original = kernel.pretraining_loss

    def looked_at(*args: Any) -> torch.Tensor:
        loss = original(*args)
        loss.item()
        return loss

    monkeypatch.setattr(kernel, "pretraining_loss", looked_at)


def with_float32_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute the vocabulary projection in fp32."""
    original = F.linear

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if len(weight) < 1000:
            return original(x, weight, bias)
        with torch.autocast("cpu", enabled=False):
            return original(x.float(), weight.float(), bias.float())

    monkeypatch.setattr(F, "linear", linear)


def with_foreach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Update the weights by many small operations instead of one."""
    original = trainer_module.make_optimizer

    def make_optimizer(*args: Any) -> torch.optim.AdamW:
        optimizer = original(*args)
        for group in optimizer.param_groups:
            group.update(fused=False, foreach=True)
        return optimizer

    monkeypatch.setattr(trainer_module, "make_optimizer", make_optimizer)


def with_second_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clip what is clipped already."""
    original = torch.nn.utils.clip_grad_norm_

    def twice(parameters: Any, max_norm: float) -> torch.Tensor:
        parameters = list(parameters)
        original(parameters, max_norm)
        return original(parameters, max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", twice)


def with_slow_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw every block six times."""
    original = Source._block

    def block(source: Source, index: int) -> tuple[IntArray, ...]:
        for _ in range(5):
            original(source, index)
        return original(source, index)

    monkeypatch.setattr(Source, "_block", block)


def compared(
    change: Callable[[pytest.MonkeyPatch], None], *, micro_batch_size: int, precision: str, **shape: int
) -> list[Contribution]:
    """Return the contributions when `change` is made to one of two sides, in steps of eight samples.

    The clock is this thread's time on the processor: what else the machine does is not in it.
    """
    workload = msgspec.structs.replace(
        BERT_CONFIGS["pico"], num_layers=1, seq_len=16, masked_per_sample=3, micro_batch_size=micro_batch_size, **shape
    )
    case = Case(global_batch_size=8, micro_batch_size=micro_batch_size, precision=precision)

    def visit() -> tuple[PhaseTime, ...]:
        step = bert_workload(workload)(case)
        return attribute(step, device=torch.device("cpu"), num_steps=2, clock=time.thread_time)

    baseline, candidate = [], []
    for _ in range(VISITS):
        baseline.append(visit())
        with pytest.MonkeyPatch.context() as changed:
            change(changed)
            candidate.append(visit())
    return attribute_difference(baseline, candidate)


@pytest.mark.parametrize(
    ("change", "phase", "operation"),
    [
        (with_item, "forward", "aten::_local_scalar_dense float32"),
        (with_foreach, "optimizer", None),
        (with_slow_data, "data", PYTHON),
        (with_second_clip, "clip", None),
    ],
)
def test_the_culprit_comes_first(
    change: Callable[[pytest.MonkeyPatch], None], phase: str, operation: str | None
) -> None:
    """Unfused updates, slow data and a second clip are each named by the first row, a host sync by the first count."""
    rows = compared(change, micro_batch_size=4 if change is with_item else 8, precision="fp32")
    # A sync takes microseconds, and what else varies on a busy machine may be longer: its count is what tells it.
    first = next(row for row in rows if row.baseline_count != row.candidate_count) if change is with_item else rows[0]
    assert first.is_significant
    assert first.phase == phase
    assert operation in (None, first.operation)
    if change is with_item:
        assert (first.baseline_count, first.candidate_count) == (0, 2)


def test_a_product_in_another_type_comes_first() -> None:
    """Of a projection in fp32 amid bf16, the products that changed their type come first, and the new ones are fp32.

    Which is longer, the bf16 product that is gone or the fp32 one that came, depends on the processor.
    """
    found = compared(with_float32_head, micro_batch_size=8, precision="bf16", hidden_size=64, vocab_size=16384)
    products = {"forward": "aten::addmm", "backward": "aten::mm"}
    assert found[0].is_significant
    assert found[0].operation.split()[0] == products[found[0].phase]
    changes = {(c.phase, c.operation): c.candidate_count - c.baseline_count for c in found if c.is_significant}
    assert changes["forward", "aten::addmm float32"] == 1
    assert changes["forward", "aten::addmm bfloat16"] == -1
    assert changes["backward", "aten::mm float32"] == 2
    slower = next(c for c in found if c.is_significant and c.difference_s > 0)
    assert slower.operation.endswith((" float32", "_to_copy bfloat16"))


def test_the_line_that_calls_an_operation_more_often_is_named() -> None:
    """A line that only moved is not; of several the one that is called most beyond the baseline's of the same text."""

    def visits(**lines: float) -> list[list[PhaseTime]]:
        """Return visits with an operation that these lines call."""
        counted = structs.replace(row("a", 0.1, count=sum(lines.values())), lines=lines)
        return [[row("rest", 1.0), counted]] * 3

    moved = attribute_difference(visits(**{"net.py:3: x @ y": 2}), visits(**{"net.py:9: x @ y": 2}))
    assert {contribution.line for contribution in moved} == {""}
    more = visits(**{"net.py:9: x @ y": 3, "net.py:12: x @ z": 250})
    (first, *_) = attribute_difference(visits(**{"net.py:3: x @ y": 2}), more)
    assert (first.operation, first.line) == ("a", "net.py:12: x @ z")
    twice = visits(**{"net.py:10: h = self.norm(h)": 1, "net.py:11: h = self.norm(h)": 1})
    (first, *_) = attribute_difference(visits(**{"net.py:10: h = self.norm(h)": 1}), twice)
    assert first.line == "net.py:10: h = self.norm(h)"
    old = [[structs.replace(one, lines={}) for one in visit] for visit in more]  # a side that does not tell
    assert {contribution.line for contribution in attribute_difference(more, old)} == {""}
