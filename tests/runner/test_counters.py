"""Counters of anyone's step are exact, those of the trainer as before, and counting leaves no trace."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import optimizer as optimizer_module

from perf.runner.counters import count_step

CPU = torch.device("cpu")

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler, and there is none",
)


class Net(nn.Module):
    """Two layers, 4 numbers to 3."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return 3 numbers a row."""
        out: torch.Tensor = self.second(F.gelu(self.first(inputs)))
        return out


def make_step(
    model: Callable[[torch.Tensor], torch.Tensor],
    *optimizers: torch.optim.Optimizer,
    result: Callable[[torch.Tensor], Any] = torch.Tensor.detach,
) -> Callable[[], Any]:
    """Return a step of a model on the same 16 samples, with all optimizers."""
    inputs, targets = torch.randn(16, 4), torch.arange(16) % 3

    def step() -> Any:
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        return result(loss)

    return step


def test_counting_again_finds_the_same() -> None:
    """A step of another process-wide state, with more threads and garbage to collect, has the same counters."""
    threads = torch.get_num_threads()
    model = Net()
    first = count_step(make_step(model, torch.optim.Adam(model.parameters())), CPU)
    torch.set_num_threads(2)
    try:
        model = Net()
        again = count_step(make_step(model, torch.optim.Adam(model.parameters())), CPU)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert first == again


def test_one_thread_and_no_collection_while_counting() -> None:
    """All three steps run on one thread, without collections, uncompiled."""
    found = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        count_step(lambda: found.append((torch.get_num_threads(), gc.isenabled())), CPU)
    finally:
        torch.set_num_threads(threads)
    assert found == [(1, False)] * 3


@pytest.mark.parametrize("fails_at", [None, 1, 2, 3])
def test_everything_is_as_it_was_afterwards(fails_at: int | None) -> None:
    """Hooks, modes, profiler, threads and garbage collection are what they were, also after an error in any step."""

    def state() -> tuple[object, ...]:
        return (
            list(optimizer_module._global_optimizer_post_hooks),
            list(optimizer_module._global_optimizer_pre_hooks),
            torch._C._len_torch_dispatch_stack(),
            torch._dynamo.eval_frame._stance.stance,
            torch.get_num_threads(),
            torch.autograd._profiler_enabled(),
            sys.getprofile(),
            gc.isenabled(),
        )

    calls = []

    def step() -> None:
        calls.append(None)
        if len(calls) == fails_at:
            raise ZeroDivisionError

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = state()
        if fails_at:
            with pytest.raises(ZeroDivisionError):
                count_step(step, CPU)
        else:
            count_step(step, CPU)
        assert state() == before
    finally:
        torch.set_num_threads(threads)


def test_parameters_of_all_optimizers_count_once() -> None:
    """What two optimizers share counts once; what is frozen, or of an optimizer that does not step, not at all."""
    model = Net()
    model.second.bias.requires_grad_(False)
    first = torch.optim.SGD([*model.first.parameters(), *model.second.parameters()], lr=0.1)
    second = torch.optim.Adam([{"params": [model.first.weight]}, {"params": [model.second.weight], "lr": 0.2}])
    idle = torch.optim.SGD([nn.Parameter(torch.zeros(1000))], lr=0.1)
    counted = count_step(make_step(model, first, second), CPU)
    assert (counted.parameters, counted.optimizer_updates) == (4 * 8 + 8 + 8 * 3, 2)
    assert idle.param_groups


def test_only_the_counted_step_counts() -> None:
    """Updates are those of one step, not of the one before it, which lets buffers come into being."""
    model, calls = Net(), []
    often = make_step(model, torch.optim.SGD(model.first.parameters(), lr=0.1))
    once = make_step(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(model.parameters(), lr=0.1))

    def step() -> None:
        calls.append(None)
        (often if len(calls) == 2 else once)()

    counted = count_step(step, CPU)
    assert (counted.parameters, counted.optimizer_updates, len(calls)) == (4 * 8 + 8, 1, 3)


def test_an_optimizer_of_one_step_is_not_kept_alive() -> None:
    """What a step drops is free while the rest of it is counted: an optimizer kept would be memory in use."""

    def step() -> None:
        for _ in range(4):
            parameter = torch.zeros(10_000, requires_grad=True)
            optimizer = torch.optim.SGD([parameter], lr=0.1)
            parameter.sum().backward()
            optimizer.step()
            del parameter, optimizer

    counted = count_step(step, CPU)
    assert counted.optimizer_updates == 4
    assert counted.peak_bytes < 3 * 40_000


@pytest.mark.parametrize(
    "result", [torch.Tensor.detach, torch.Tensor.item, lambda loss: {"loss": loss}, lambda loss: None]
)
def test_what_a_step_returns_does_not_matter(result: Callable[[torch.Tensor], Any]) -> None:
    """A tensor, a float, a dict or nothing: each is dropped."""
    model = Net()
    counted = count_step(make_step(model, torch.optim.SGD(model.parameters(), lr=0.1), result=result), CPU)
    assert counted.flops == 3 * 2 * 16 * (4 * 8 + 8 * 3) - 2 * 16 * 4 * 8  # no gradient of the inputs
    assert counted.host_syncs == (result is torch.Tensor.item)
    assert 0 < counted.peak_bytes <= counted.allocated_bytes


def test_a_step_without_an_optimizer_has_no_updates() -> None:
    """A step that updates its weights by itself is counted, without updates and parameters."""
    counted = count_step(make_step(Net()), CPU)
    assert (counted.optimizer_updates, counted.parameters) == (0, 0)
    assert counted.ops["aten::gelu_backward"] == 1


def test_flops_of_attention_are_counted() -> None:
    """Fused attention on a CPU costs two matrix products forward and five backward."""
    query = torch.randn(1, 2, 8, 4, requires_grad=True)

    def step() -> None:
        F.scaled_dot_product_attention(query, query, query).sum().backward()

    counted = count_step(step, CPU)
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in counted.ops
    assert counted.flops == 7 * 2 * 2 * 8 * 8 * 4


def make_compiled(compiled: str) -> Callable[[], Any]:
    """Return a step of which a part is compiled: a function of it, the module, in place or not, or the update."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    called: Callable[[torch.Tensor], torch.Tensor] = model
    if compiled == "module":
        called = torch.compile(model)
    elif compiled == "in place":
        model.compile()
    elif compiled == "update":
        optimizer.step = torch.compile(optimizer.step)
    return make_step(called, optimizer)


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it loads its compiler
@pytest.mark.parametrize("compiled", ["module", "in place", "update"])
def test_a_compiled_step_is_counted_as_written(compiled: str) -> None:
    """What torch.compile compiled counts as if it had not; afterwards it is compiled again."""
    plain = count_step(make_compiled(""), CPU)
    step = make_compiled(compiled)
    step()  # compiles
    counted = count_step(step, CPU)
    assert msgspec.structs.replace(counted, python_calls=plain.python_calls) == plain
    assert count_step(step, CPU) == counted
    with torch.compiler.set_stance("fail_on_recompile"):
        step()


def test_python_calls_are_those_of_the_step() -> None:
    """Two more functions entered are two more Python calls."""

    def nothing() -> None:
        pass

    def more() -> None:
        nothing()
        nothing()

    base = count_step(nothing, CPU).python_calls
    assert count_step(more, CPU).python_calls == base + 2
