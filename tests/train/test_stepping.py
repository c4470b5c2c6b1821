"""What steps return is read together, later, and checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from perf.errors import NonFiniteError, PerfError
from perf.train.devices import World
from perf.train.stepping import Stepping


def stepped(values: Iterable[Any], start_step: int = 0) -> Stepping:
    """Return steps that returned these values."""
    values = list(values)
    remaining = iter(values)
    stepping = Stepping(lambda: next(remaining), world=World(), start_step=start_step)
    for _ in values:
        stepping.step()
    return stepping


def test_losses_are_read_in_order_whatever_they_are() -> None:
    """A tensor, with or without a gradient, or a float; and more than once."""
    stepping = stepped([torch.tensor(3.0, requires_grad=True), torch.tensor([2.0]), 1.5, 1])
    assert stepping.losses == []
    stepping.read()
    stepping.read()
    assert stepping.losses == [3.0, 2.0, 1.5, 1.0]
    assert stepping.global_step == 4


def test_further_scalars_are_kept_by_name() -> None:
    """Of every step."""
    stepping = stepped([{"loss": 2.0, "norm": torch.tensor(0.5)}, {"loss": 1.0, "norm": torch.tensor(0.25)}])
    stepping.read()
    assert (stepping.losses, stepping.scalars) == ([2.0, 1.0], {"norm": [0.5, 0.25]})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), torch.tensor(float("nan"))])
def test_a_loss_that_is_not_finite_names_its_step(bad: Any) -> None:
    """Counted from where the run began."""
    with pytest.raises(NonFiniteError, match=r"^Step=12: the loss is (nan|inf)"):
        stepped([1.0, bad, 1.0], start_step=10).read()


def test_a_scalar_that_is_not_finite_is_named() -> None:
    """Whatever it is called: nothing of it could be written down."""
    with pytest.raises(NonFiniteError, match=r"^Step=2: the norm is inf"):
        stepped([{"loss": 1.0, "norm": 1.0}, {"loss": 1.0, "norm": float("inf")}]).read()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([None], "Step=1: returned NoneType as 'loss', and a tensor of one number or a float is needed"),
        ([torch.ones(2)], "Step=1: returned Tensor as 'loss'"),
        ([{"norm": 1.0}], 'Step=1: returned scalars without "loss"'),
        ([{"loss": 1.0, 3: 1.0}], "Step=1: returned float as 3"),
        ([{"loss": 1.0}, {"loss": 1.0, "norm": 1.0}], "Step=1: the steps from here on return different scalars"),
    ],
)
def test_what_is_no_loss_is_refused(values: list[Any], problem: str) -> None:
    """The step is named, what was found and what is needed."""
    with pytest.raises(PerfError) as error:
        stepped(values).read()
    assert str(error.value).startswith(problem)
