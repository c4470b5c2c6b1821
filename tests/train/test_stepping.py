"""Step arithmetic by the published rules, against an oracle and each rule; what steps return is read and checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perf.errors import NonFiniteError, PerfError, RunFinishedError
from perf.train.devices import World
from perf.train.stepping import Stepping, should_act, steps_to_run

positive = st.integers(1, 20) | st.integers(1, 10_000)  # small ones, too: they are often near each other
maybe = st.none() | positive


def oracle(
    global_step: int,
    num_steps: int | None,
    max_steps: int | None,
    num_epochs: int | None,
    steps_per_epoch: int | None,
    data_len: int | None,
    grad_accum_steps: int,
) -> int | type[Exception]:
    """State the published rules in another form: collect every reason to refuse, then count one step at a time."""
    epoch = data_len if steps_per_epoch is None else steps_per_epoch  # as given: not yet divided
    refused = [
        num_epochs is not None and num_steps is not None,
        num_epochs is None and num_steps is None and max_steps is None,
        num_epochs is not None and data_len is None,
        data_len is not None and epoch is not None and epoch > data_len,
        data_len is not None and epoch is not None and grad_accum_steps > epoch,
    ]
    if any(refused):
        return ValueError
    if max_steps is not None and max_steps - global_step <= 0:
        return RunFinishedError
    least = float("inf")
    if num_steps is not None:
        least = min(least, num_steps)
    if max_steps is not None:
        least = min(least, max_steps - global_step)
    if num_epochs is not None:
        assert epoch is not None
        least = min(least, num_epochs * (epoch // grad_accum_steps))
    return int(least)


@given(
    global_step=st.integers(0, 10_000),
    num_steps=maybe,
    max_steps=maybe,
    num_epochs=maybe,
    steps_per_epoch=maybe,
    data_len=maybe,
    grad_accum_steps=st.integers(1, 64) | positive,
)
@settings(max_examples=300)
def test_steps_to_run_follows_the_published_rules(**arguments: Any) -> None:
    """For any arguments: the same number of steps as the oracle, or the same kind of error."""
    expected = oracle(**arguments)
    if isinstance(expected, int):
        assert steps_to_run(**arguments) == expected > 0
    else:
        with pytest.raises(expected):
            steps_to_run(**arguments)


@given(global_step=st.integers(0, 5000), num_steps=positive, max_steps=positive)
def test_a_run_never_passes_either_limit(global_step: int, num_steps: int, max_steps: int) -> None:
    """Split at any point, a run makes the same steps: none is lost and none repeated."""
    if global_step >= max_steps:
        return
    steps = steps_to_run(global_step=global_step, num_steps=num_steps, max_steps=max_steps)
    assert 0 < steps <= num_steps
    assert global_step + steps <= max_steps
    if steps > 1:
        first = steps // 2
        rest = steps_to_run(global_step=global_step + first, num_steps=num_steps - first, max_steps=max_steps)
        assert first + rest == steps


@pytest.mark.parametrize("max_steps", [1000, 999])
def test_a_finished_run_keeps_the_published_sentence(max_steps: int) -> None:
    """At or beyond the target there is nothing to run, and the error begins as the reference's did."""
    with pytest.raises(
        RuntimeError, match=rf"^Initial global step 1000 already exceeds max step {max_steps}\.$"
    ) as caught:
        steps_to_run(global_step=1000, max_steps=max_steps)
    assert isinstance(caught.value, PerfError)


@pytest.mark.parametrize(
    "name", ["num_steps", "max_steps", "num_epochs", "steps_per_epoch", "data_len", "grad_accum_steps"]
)
@pytest.mark.parametrize("value", [0, -1, 1.5, "10", True])
def test_only_positive_integers_are_accepted(name: str, value: Any) -> None:
    """Every argument but the step must be a positive integer; the message names it and what was given."""
    arguments: dict[str, Any] = {"global_step": 0, "max_steps": 10, "data_len": 10, name: value}
    with pytest.raises(ValueError, match=rf"{name}={value!r}: an integer of at least 1 is needed"):
        steps_to_run(**arguments)


@pytest.mark.parametrize("value", [-1, 0.0, None, False])
def test_the_global_step_may_be_zero_but_not_below(value: Any) -> None:
    """The step a run starts at is an integer of at least 0."""
    with pytest.raises(ValueError, match=r"global_step=.*at least 0"):
        steps_to_run(global_step=value, max_steps=10)
    assert steps_to_run(global_step=0, max_steps=10) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_epochs": 1, "num_steps": 1, "data_len": 4}, "exclude each other"),
        ({}, "no limit given"),
        ({"num_epochs": 1}, "known length"),
        ({"num_epochs": 1, "steps_per_epoch": 4}, "known length"),
        ({"num_epochs": 1, "steps_per_epoch": 5, "data_len": 4}, "steps_per_epoch=5 exceeds the data: it has 4"),
        (
            {"num_steps": 1, "grad_accum_steps": 5, "data_len": 4},
            "grad_accum_steps=5 exceeds an epoch of 4 micro-batches",
        ),
        *(
            (
                {limit: 1, "grad_accum_steps": 3, "steps_per_epoch": 2, "data_len": 4},
                "grad_accum_steps=3 exceeds an epoch of 2 micro-batches",
            )
            for limit in ("num_steps", "max_steps", "num_epochs")
        ),
    ],
)
def test_contradictions_are_named(arguments: dict[str, Any], message: str) -> None:
    """Arguments that contradict each other or the data are told apart."""
    with pytest.raises(ValueError, match=message):
        steps_to_run(global_step=0, **arguments)


@given(last_step=st.integers(1, 300), every=st.none() | st.integers(1, 50))
def test_something_periodic_happens_at_every_multiple_and_at_the_end(last_step: int, every: int | None) -> None:
    """Over a whole run: exactly the multiples of the period, and the last step."""
    acted = {s for s in range(1, last_step + 1) if should_act(global_step=s, last_step=last_step, every=every)}
    assert acted == {last_step} | (set(range(every, last_step + 1, every)) if every else set())


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
