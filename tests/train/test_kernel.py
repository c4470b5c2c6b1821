"""A step updates the weights as it says, and how a batch is cut into micro-batches does not matter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from perf.train import kernel
from perf.train.data import Batch, SyntheticLanguage
from perf.train.kernel import (
    BertForPreTraining,
    SelfAttention,
    accumulate_gradients,
    learning_rate,
    make_optimizer,
    pretraining_loss,
    train_step,
)
from perf.train.workloads import BertConfig


@pytest.fixture(scope="module")
def steady(workload: BertConfig) -> BertConfig:
    """Without dropout, which is drawn per forward pass and so differs with the micro-batch size."""
    return msgspec.structs.replace(workload, dropout=0.0)


def new_model(workload: BertConfig) -> BertForPreTraining:
    """Return the same model each time."""
    torch.manual_seed(1)
    return BertForPreTraining(workload)


def new_batch(workload: BertConfig, num_samples: int = 24) -> Batch:
    """Return the same samples each time."""
    return SyntheticLanguage(workload, seed=2).batch(position=0, num_samples=num_samples)


@pytest.mark.parametrize("micro_batch_size", [1, 3, 8, 12])
def test_loss_and_gradients_do_not_depend_on_the_micro_batch_size(steady: BertConfig, micro_batch_size: int) -> None:
    """Accumulated over micro-batches of any size, they equal those of the whole batch to fp32 rounding."""
    whole, cut, batch = new_model(steady), new_model(steady), new_batch(steady)
    expected = pretraining_loss(*whole(batch.input_ids, batch.token_type_ids, batch.masked_positions), batch)
    expected.backward()
    loss = accumulate_gradients(cut, batch, micro_batch_size=micro_batch_size, precision="fp32")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for (name, p), q in zip(whole.named_parameters(), cut.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_a_step_is_clipped_adamw_worked_by_hand(steady: BertConfig) -> None:
    """The first update of every weight equals AdamW's formula on the clipped gradient (Loshchilov & Hutter 2019)."""
    model, batch, lr = new_model(steady), new_batch(steady), 0.01
    accumulate_gradients(model, batch, micro_batch_size=24, precision="fp32")
    gradients = {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}
    norm = torch.sqrt(sum(((g**2).sum() for g in gradients.values()), start=torch.zeros((), dtype=torch.float64)))
    max_grad_norm = float(norm) / 2  # so that the clip bites
    before = {n: p.detach().double() for n, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    optimizer = make_optimizer(model, steady)
    train_step(
        model,
        optimizer,
        batch,
        micro_batch_size=8,
        precision="fp32",
        lr=lr,
        max_grad_norm=max_grad_norm,
    )
    for name, parameter in model.named_parameters():
        g = gradients[name] / 2
        decay = steady.weight_decay if parameter.ndim >= 2 else 0.0
        # Adam's first update hardly depends on the gradient's size; its first moment does.
        torch.testing.assert_close(
            optimizer.state[parameter]["exp_avg"].double(), 0.1 * g, rtol=1e-3, atol=1e-3 * max_grad_norm
        )
        # After one step both bias-corrected moments are those of the gradient itself.
        expected = before[name] * (1 - lr * decay) - lr * g / (g.abs() + 1e-8)
        large = g.abs() > 1e-5  # elsewhere rounding decides the sign
        torch.testing.assert_close(parameter.detach().double()[large], expected[large], rtol=1e-4, atol=1e-4)
        assert parameter.grad is None, "gradients are dropped, not zeroed"


def test_weight_decay_spares_biases_and_norms(steady: BertConfig) -> None:
    """Matrices decay, vectors do not, and every parameter is in one of the groups."""
    model = new_model(steady)
    optimizer = make_optimizer(model, steady)
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert all(p.ndim == 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_the_learning_rate_rises_then_falls_linearly(workload: BertConfig) -> None:
    """Zero before the first step, the peak at the end of the ramp, half of it half-way down, zero from the end on."""
    plan = msgspec.structs.replace(workload, learning_rate=1.0, lr_warmup_steps=10, lr_end_step=110)
    assert [learning_rate(plan, step) for step in (0, 1, 5, 10, 60, 110, 500)] == pytest.approx(
        [0.0, 0.1, 0.5, 1.0, 0.5, 0.0, 0.0]
    )


def test_bf16_is_close_to_fp32_and_keeps_fp32_weights(steady: BertConfig) -> None:
    """The same loss to bf16's three digits, but not to fp32's; gradients and weights stay fp32."""
    batch, model = new_batch(steady), new_model(steady)
    exact = accumulate_gradients(model, batch, micro_batch_size=8, precision="fp32").item()
    model.zero_grad(set_to_none=True)
    rounded = accumulate_gradients(model, batch, micro_batch_size=8, precision="bf16").item()
    assert rounded == pytest.approx(exact, rel=1e-2)
    assert rounded != pytest.approx(exact, rel=1e-7)
    assert all(
        p.dtype == torch.float32 and p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters()
    )


def dropout_places(model: BertForPreTraining) -> list[nn.Dropout | SelfAttention]:
    """Return everything that drops: embeddings, then attention weights and both sublayer outputs of each layer."""
    return [module for module in model.modules() if isinstance(module, nn.Dropout | SelfAttention)]


def set_dropout(place: nn.Dropout | SelfAttention, p: float) -> None:
    """Set the probability of one place."""
    if isinstance(place, SelfAttention):
        place.dropout = p
    else:
        place.p = p


@pytest.mark.parametrize("index", range(5))
def test_each_place_drops_in_training_and_none_in_evaluation(workload: BertConfig, index: int) -> None:
    """With dropout in one place only, two training passes differ; in evaluation, and without it, they do not.

    The sublayer outputs share a module: BERT drops with one probability in both places, and so it is called twice.
    """
    model, batch = new_model(workload), new_batch(workload)
    places = dropout_places(model)
    assert len(places) == 1 + 2 * workload.num_layers

    def loss() -> float:
        with torch.no_grad():
            return pretraining_loss(*model(batch.input_ids, batch.token_type_ids, batch.masked_positions), batch).item()

    for place in places:
        set_dropout(place, 0.0)
    assert loss() == loss()
    set_dropout(places[index], 0.1)
    assert loss() != loss()
    model.eval()
    assert loss() == loss()


def test_both_sublayer_outputs_drop(workload: BertConfig) -> None:
    """In each layer, the output of the attention and the output of the feed-forward pass through dropout."""
    model, batch = new_model(workload), new_batch(workload)
    calls: list[nn.Module] = []
    for place in dropout_places(model):
        if isinstance(place, nn.Dropout):
            place.register_forward_hook(lambda module, inputs, output: calls.append(module))
    model(batch.input_ids, batch.token_type_ids, batch.masked_positions)
    layers = [module.dropout for module in model.layers for _ in range(2)]
    assert [id(module) for module in calls] == [id(module) for module in [model.dropout, *layers]]


def test_gradients_travel_between_ranks_once_a_step(steady: BertConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three micro-batches, the first two accumulate without a reduction."""

    class FakeRanks(nn.Module):
        """Stands for DistributedDataParallel: notes which backward passes reduce."""

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module
            self.local = False
            self.reduced: list[bool] = []

        @contextmanager
        def no_sync(self) -> Iterator[None]:
            """Keep gradients local inside."""
            self.local = True
            yield
            self.local = False

        def forward(self, *inputs: Tensor) -> Any:
            """Run the module."""
            self.reduced.append(not self.local)
            return self.module(*inputs)

    monkeypatch.setattr(kernel, "DistributedDataParallel", FakeRanks)
    ranks = FakeRanks(new_model(steady))
    accumulate_gradients(ranks, new_batch(steady), micro_batch_size=8, precision="fp32")
    assert ranks.reduced == [False, False, True]
