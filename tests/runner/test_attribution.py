"""Times of anyone's step add up, belong to the phase in which they passed, and leave no trace of being taken."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from msgspec import structs
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.utils.data import DataLoader, Dataset

from perf.records.wire import PYTHON, STEP_PHASES, Attributed, PhaseTime
from perf.runner import phases
from perf.runner.attribution import attribute
from perf.runner.counters import count_step
from perf.seam import Case
from perf.train import kernel
from perf.train import trainer as trainer_module
from perf.train.data import SyntheticLanguage
from perf.train.trainer import Trainer
from tests.runner.test_counters import make_compiled, needs_compiler
from tests.workloads import SMALL

CPU = torch.device("cpu")
phase = Case(global_batch_size=1, micro_batch_size=1).phase
Step = Callable[[], object]


class Clock:
    """A clock that moves when told to, and by `per_reading` seconds whenever it is read."""

    def __init__(self, *, per_reading: float = 0.0) -> None:
        self.now = 0.0
        self.readings: list[float] = []
        self._per_reading = per_reading

    def __call__(self) -> float:
        """Return the seconds now."""
        self.now += self._per_reading
        self.readings.append(self.now)
        return self.now

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def make_trainer() -> Trainer:
    """Return a new trainer."""
    return Trainer(SMALL, Case(global_batch_size=16, micro_batch_size=8), SyntheticLanguage(SMALL, seed=0))


def seconds_of(rows: Sequence[PhaseTime]) -> dict[str, float]:
    """Return the seconds of each phase in which time passed."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        seconds[row.phase] += row.seconds
    return {phase: value for phase, value in seconds.items() if value}


def attributed(step: Step, clock: Clock) -> dict[str, float]:
    """Return where the ticks of two steps of a kind went, per step."""
    return seconds_of(attribute(step, device=CPU, clock=clock))


class Images(Dataset[tuple[Tensor, int]]):
    """Eight small images, prepared by a module without parameters."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._images = clock, torch.randn(8, 1, 6, 6)
        self._prepare = nn.Sequential(nn.ZeroPad2d(1), nn.Identity())

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._prepare(self._images[index])
        self._clock.tick(1)
        return image, index % 3


class Cnn(nn.Module):
    """A convolution and a linear layer."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.convolution, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return three numbers for each image."""
        self._clock.tick(10)
        out: Tensor = self.linear(F.relu(self.convolution(images)).mean(dim=(2, 3)))
        return out


def slow_backward(loss: Tensor, clock: Clock, seconds: float) -> Tensor:
    """Let time pass in the backward pass of a loss."""
    loss.register_hook(lambda gradient: clock.tick(seconds))
    return loss


def slow_update(optimizer: torch.optim.Optimizer, clock: Clock, seconds: float) -> None:
    """Let time pass in an optimizer's step."""
    optimizer.register_step_pre_hook(lambda *_: clock.tick(seconds))


def cnn_step(clock: Clock, *, precision: torch.dtype | None = None) -> Step:
    """Return a step of a CNN on images of a DataLoader, as anyone might write it."""
    model, loader = Cnn(clock), DataLoader(Images(clock), batch_size=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    slow_update(optimizer, clock, 10_000)

    def step() -> float:
        optimizer.zero_grad()
        images, labels = next(iter(loader))
        with torch.autocast("cpu", dtype=precision) if precision else nullcontext():
            logits = model(images)
            clock.tick(20)
            loss = slow_backward(F.cross_entropy(logits, labels), clock, 100)
        clock.tick(30)
        loss.backward()
        clock.tick(1_000)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        clock.tick(100_000)
        return loss.item()

    return step


def functional_step(clock: Clock) -> Step:
    """Return a step without modules and optimizers."""
    weight, inputs = torch.randn(4, 3, requires_grad=True), torch.randn(5, 4)

    def step() -> Tensor:
        noisy = inputs + torch.randn(5, 4)
        clock.tick(1)
        logits = noisy @ weight
        clock.tick(10)
        loss = slow_backward(logits.square().mean(), clock, 100)
        (gradient,) = torch.autograd.grad(loss, [weight])
        clock.tick(1_000)
        with torch.no_grad():
            weight.sub_(gradient, alpha=0.1)
        return loss.detach()

    return step


def accumulating_step(clock: Clock) -> Step:
    """Return a step in two micro-batches, without modules."""
    weight = torch.randn(4, 3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def step() -> Tensor:
        total = torch.zeros(())
        for _ in range(2):
            inputs = torch.randn(5, 4)
            clock.tick(1)
            loss = (inputs @ weight).square().mean() / 2
            clock.tick(10)
            torch.autograd.backward([slow_backward(loss, clock, 100)])
            total += loss.detach()
        clock.tick(1_000)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return total

    return step


def adversarial_step(clock: Clock) -> Step:
    """Return a step of two networks, each with an optimizer, that sums losses with their graphs."""
    make, judge = nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
    updates = [torch.optim.Adam(module.parameters(), lr=0.01) for module in (judge, make)]
    for optimizer in updates:
        slow_update(optimizer, clock, 10_000)

    def step() -> dict[str, float]:
        real, noise = torch.randn(4, 4), torch.randn(4, 2)
        clock.tick(1)
        updates[0].zero_grad()
        made = make(noise)
        clock.tick(10)
        judged = slow_backward(F.softplus(judge(made.detach())).mean() + F.softplus(-judge(real)).mean(), clock, 100)
        judged.backward()
        clock.tick(1_000)
        updates[0].step()
        clock.tick(100_000)
        updates[1].zero_grad()
        fooled = slow_backward(F.softplus(-judge(made)).mean(), clock, 200)
        fooled.backward()
        total = judged + fooled
        clock.tick(2_000)
        updates[1].step()
        clock.tick(200_000)
        return {"loss": total.item()}

    return step


def closure_step(clock: Clock) -> Step:
    """Return a step whose optimizer calls for the passes."""
    model, inputs = nn.Linear(3, 1), torch.randn(6, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2, max_eval=2, history_size=1)

    def closure() -> Tensor:
        clock.tick(5_000)
        optimizer.zero_grad()
        loss = model(inputs).square().mean() + model.weight.abs().sum()
        clock.tick(10)
        loss = slow_backward(loss, clock, 100)
        loss.backward()
        clock.tick(5_000)
        return loss

    def step() -> object:
        clock.tick(1)
        with torch.no_grad():
            model(inputs).sum()
        clock.tick(100_000)
        return optimizer.step(closure)

    return step


STEPS: dict[str, tuple[Callable[[Clock], Step], dict[str, float]]] = {
    "cnn": (
        cnn_step,
        {"data": 4, "forward": 60, "backward": 100, "clip": 1_000, "optimizer": 10_000, "other": 100_000},
    ),
    "functional": (functional_step, {"backward": 100, "other": 1_011}),
    "accumulating": (accumulating_step, {"backward": 200, "clip": 1_000, "other": 22}),
    "adversarial": (
        adversarial_step,
        {"data": 1, "forward": 10, "backward": 300, "clip": 3_000, "optimizer": 20_000, "other": 300_000},
    ),
    "closure": (closure_step, {"data": 1, "forward": 20, "backward": 200, "optimizer": 20_000, "other": 100_000}),
}


@pytest.mark.parametrize("kind", STEPS)
def test_time_belongs_to_the_phase_in_which_it_passes(kind: str) -> None:
    """What passes outside of operations is its own phase's, for steps of every kind, and nobody else's."""
    make, expected = STEPS[kind]
    clock = Clock()
    assert attributed(make(clock), clock) == expected


def test_time_of_the_trainer_belongs_to_its_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for the trainer, in two micro-batches; what it does before it draws cannot be told from drawing."""
    clock = Clock()
    trainer = make_trainer()

    def slow_down(owner: Any, name: str, seconds: float) -> None:
        original = getattr(owner, name)

        def slowed(*args: Any, **kwargs: Any) -> Any:
            clock.tick(seconds)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, slowed)

    loss = kernel.pretraining_loss
    monkeypatch.setattr(kernel, "pretraining_loss", lambda *args: slow_backward(loss(*args), clock, 8.0))
    slow_down(trainer_module, "seed_device", 0.5)
    slow_down(SyntheticLanguage, "batch", 1.0)
    slow_down(kernel, "pretraining_loss", 2.0)
    slow_down(nn.utils, "clip_grad_norm_", 32.0)
    slow_update(trainer.optimizer, clock, 64.0)
    slow_down(trainer.optimizer, "zero_grad", 128.0)
    rows = attribute(trainer.step, device=CPU, clock=clock)
    assert seconds_of(rows) == {
        "data": 1.5,
        "forward": 4.0,
        "backward": 16.0,
        "clip": 32.0,
        "optimizer": 64.0,
        "other": 128.0,
    }
    assert {row.operation for row in rows if row.seconds} == {PYTHON}
    assert list(dict.fromkeys(row.phase for row in rows)) == list(STEP_PHASES)
    assert [row.count for row in rows if row.operation == PYTHON] == [0] * len(STEP_PHASES)


@pytest.mark.parametrize("kind", STEPS)
def test_times_add_up(kind: str) -> None:
    """All rows together, those of a step times the number of steps, are what elapsed; none is negative."""
    clock = Clock(per_reading=1.0)
    rows = attribute(STEPS[kind][0](clock), device=CPU, num_steps=3, clock=clock)
    times = [row.seconds * 3 for row in rows]
    assert min(times) >= 0
    assert sum(times) == pytest.approx(clock.readings[-1] - clock.readings[0], rel=1e-12)


@pytest.mark.parametrize("kind", [*STEPS, "trainer"])
def test_operations_are_those_that_the_counters_count(kind: str) -> None:
    """The counts of a step, over phases and types, are the exact counters'."""
    make = (lambda _: make_trainer().step) if kind == "trainer" else STEPS[kind][0]
    rows = attribute(make(Clock()), device=CPU)
    counted: Counter[str] = Counter()
    for row in rows:
        if row.operation != PYTHON:
            assert isinstance(row.count, int)
            counted[row.operation.split()[0]] += row.count
    assert counted == count_step(make(Clock()), CPU).ops


def operations_of(rows: Sequence[PhaseTime], phase: str) -> set[str]:
    """Return the operations of a phase."""
    return {row.operation for row in rows if row.phase == phase and row.operation != PYTHON}


def test_an_operation_belongs_to_its_phase_with_the_type_it_computes_in() -> None:
    """With bf16 the convolutions of both passes are bfloat16, and the update is float32."""
    rows = attribute(cnn_step(Clock(), precision=torch.bfloat16), device=CPU)
    found = {phase: operations_of(rows, phase) for phase in STEP_PHASES}
    assert {"aten::stack float32", "aten::constant_pad_nd float32"} <= found["data"]
    assert {"aten::convolution bfloat16", "aten::nll_loss_forward float32"} <= found["forward"]
    assert {"aten::convolution_backward bfloat16", "aten::ones_like float32"} <= found["backward"]
    assert "aten::linalg_vector_norm float32" in found["clip"] or "aten::_foreach_norm float32" in found["clip"]
    assert "aten::_foreach_add_ float32" in found["optimizer"] or "aten::add_ float32" in found["optimizer"]
    assert found["other"] == {"aten::_local_scalar_dense float32", "profiler::_record_function_exit"}
    assert not any("convolution" in name for phase in STEP_PHASES[3:] for name in found[phase])


def test_what_cannot_be_told_is_other() -> None:
    """Without modules, nothing is "data" or "forward"."""
    clock = Clock()
    weight = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    slow_update(optimizer, clock, 10)
    weight.grad = torch.ones(3)

    def step() -> None:
        clock.tick(1)
        weight.square()
        clock.tick(1)
        optimizer.step()
        weight.square()
        clock.tick(1)

    assert attributed(step, clock) == {"other": 3, "optimizer": 10}


def test_the_innermost_part_wins() -> None:
    """A gradient within a forward pass is "backward", a module within a backward pass too, an update in it is none."""
    clock = Clock()

    class Forces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, positions: Tensor) -> Tensor:
            clock.tick(1)
            energy = slow_backward(self.linear(positions).square().sum(), clock, 10)
            (forces,) = torch.autograd.grad(energy, [positions], create_graph=True)
            clock.tick(1)
            return forces

    model, small = Forces(), nn.Linear(1, 1)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    slow_update(optimizer, clock, 100)

    def in_backward(gradient: Tensor) -> None:
        clock.tick(10)
        small(torch.ones(1))
        optimizer.step()
        clock.tick(10)

    def step() -> None:
        loss = model(torch.randn(4, 3, requires_grad=True)).square().sum()
        clock.tick(1)
        loss.register_hook(in_backward)
        loss.backward()

    assert attributed(step, clock) == {"forward": 3, "backward": 30, "optimizer": 100}


def test_phases_that_a_step_says_go_before_what_hooks_say() -> None:
    """What is said holds also within other parts and for what runs in it; "other" interrupts and does not end."""
    clock = Clock()
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    slow_update(optimizer, clock, 1_000)

    def step() -> None:
        clock.tick(1)
        with phase("other"):
            clock.tick(10)
        clock.tick(1)
        loss = slow_backward(model(torch.ones(2, 3)).sum(), clock, 200)
        with phase("forward"):
            loss.backward()
            clock.tick(20)
            with phase("data"):
                clock.tick(2)
        with phase("clip"):
            optimizer.step()

    assert attributed(step, clock) == {"data": 4, "forward": 220, "clip": 1_000, "other": 10}
    with phase("lunch"):
        pass  # nobody times it any more


def test_drawing_may_be_said() -> None:
    """Where a step says what is "data", what comes before and after is not."""
    clock = Clock()
    model = nn.Linear(3, 1)

    def step() -> None:
        clock.tick(1)
        with phase("data"):
            clock.tick(10)
        clock.tick(100)
        model(torch.ones(2, 3)).sum().backward()

    assert attributed(step, clock) == {"other": 101, "data": 10}


def test_a_phase_that_is_none_of_a_step_is_refused() -> None:
    """The error names it."""

    def step() -> None:
        with phase("lunch"):
            pass

    with pytest.raises(ValueError, match="phase: found 'lunch'"):
        attribute(step, device=CPU, num_steps=1)


def test_what_other_threads_do_is_not_the_steps() -> None:
    """A module, an update and a said phase in another thread, while the step waits for it, begin nothing."""
    clock = Clock()
    model = nn.Linear(3, 1)

    def beside() -> None:
        other = nn.Sequential(nn.Linear(3, 3))
        other.register_forward_pre_hook(lambda *_: clock.tick(1))
        optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
        slow_update(optimizer, clock, 1)
        other(torch.ones(2, 3))
        optimizer.step()
        with phase("clip"):
            clock.tick(1)

    def step() -> None:
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
        clock.tick(10)
        model(torch.ones(2, 3)).sum().backward()

    assert attributed(step, clock) == {"data": 13}


def test_a_module_or_an_update_that_fails_has_ended() -> None:
    """A step may go on after an error in either, and the next step begins anew."""
    clock = Clock()
    model, broken = nn.Linear(3, 1), nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        clock.tick(1)
        model(torch.ones(2, 3)).sum().backward()
        with pytest.raises(RuntimeError):
            broken(torch.ones(2, 3))
        clock.tick(10)
        with pytest.raises(ZeroDivisionError):
            optimizer.step(lambda: 1 / 0)

    assert attributed(step, clock) == {"data": 1, "other": 10}


def test_a_pass_that_no_hook_saw_begin_is_other() -> None:
    """What precedes a backward pass may be "data" or "forward" where functions are transformed: it is "other"."""
    clock = Clock()
    inputs = torch.randn(4, 3)

    def loss_of(weight: Tensor) -> Tensor:
        clock.tick(10)
        return (inputs @ weight).square().mean()

    def step() -> None:
        clock.tick(1)
        torch.func.grad(loss_of)(torch.ones(3))

    assert attributed(step, clock) == {"other": 11}


def test_an_optimizer_may_step_another() -> None:
    """What an optimizer does around the closure and the optimizer that it calls is "optimizer", not "clip"."""
    clock = Clock()
    model = nn.Linear(3, 1)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    slow_update(inner, clock, 1_000)

    class Sharp(torch.optim.Optimizer):
        def step(self, closure: Any = None) -> None:
            with torch.enable_grad():
                closure()
            clock.tick(10)
            inner.step()
            clock.tick(10)

    outer = Sharp(model.parameters(), {})
    assert attributed(lambda: outer.step(lambda: model(torch.ones(3)).sum().backward()), clock) == {"optimizer": 1_020}


def test_a_forked_process_does_not_wait_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the process that takes the times waits for the device, as CUDA works in no process forked from it."""
    waits: list[int] = []
    in_a_step: list[tuple[int, int]] = []
    monkeypatch.setattr(phases, "synchronize", lambda device: waits.append(0))

    def step() -> None:
        seen = len(waits)
        torch.ones(2)
        here = len(waits) - seen
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: -1)
            torch.ones(2)
        in_a_step.append((here, len(waits) - seen - here))

    attribute(step, device=CPU, num_steps=1)
    assert in_a_step == [(0, 0), (2, 0), (2, 0)]  # the first is not observed


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it loads its compiler
@pytest.mark.parametrize("compiled", ["module", "in place", "update"])
def test_a_compiled_step_is_attributed_as_written(compiled: str) -> None:
    """What torch.compile compiled has the phases and the operations that it has without."""
    step = make_compiled(compiled)
    step()  # compiles
    found = attribute(step, device=CPU)
    plain = attribute(make_compiled(""), device=CPU)
    assert [(row.phase, row.operation, row.count) for row in found] == [
        (row.phase, row.operation, row.count) for row in plain
    ]


def test_a_count_that_steps_do_not_share_is_a_fraction() -> None:
    """An operation of every other step is half an operation per step."""
    calls = []

    def step() -> None:
        calls.append(None)
        if len(calls) % 2:
            torch.ones(2).erf()

    rows = attribute(step, device=CPU)
    assert [row.count for row in rows if row.operation == "aten::erf float32"] == [0.5]


@pytest.mark.parametrize("fails_at", [None, 1, 2, 3, 4])
def test_nothing_remains(fails_at: int | None) -> None:
    """Afterwards no hook and no mode is left and garbage is collected again, also after an error in any step."""

    def state() -> tuple[object, ...]:
        return (
            dict(module_hooks._global_forward_pre_hooks),
            dict(module_hooks._global_forward_hooks),
            dict(module_hooks._global_forward_hooks_always_called),
            dict(optimizer_hooks._global_optimizer_pre_hooks),
            dict(optimizer_hooks._global_optimizer_post_hooks),
            torch._C._len_torch_dispatch_stack(),
            torch._C._len_torch_function_stack(),
            torch._dynamo.eval_frame._stance.stance,
            gc.isenabled(),
        )

    calls: list[None] = []

    def step() -> None:
        assert not gc.isenabled()
        calls.append(None)
        torch.ones(2)
        if len(calls) == fails_at:
            raise ZeroDivisionError

    before = state()
    with pytest.raises(ZeroDivisionError) if fails_at else nullcontext():
        attribute(step, device=CPU)
    assert state() == before
    assert len(calls) == (fails_at or 4)


def test_every_phase_has_a_row() -> None:
    """Also one in which nothing happens: its Python time, which is no dispatch."""
    rows = attribute(lambda: None, device=CPU)
    assert [(row.phase, row.operation, row.count) for row in rows] == [(phase, PYTHON, 0) for phase in STEP_PHASES]


def test_rows_pass_through_json() -> None:
    """A row is its fields and nothing else: as JSON and back it is equal, and whole numbers stay whole."""
    rows = attribute(functional_step(Clock()), device=CPU)
    again = tuple(PhaseTime(**row) for row in json.loads(json.dumps([structs.asdict(row) for row in rows])))
    assert again == rows
    assert [type(row.count) for row in again] == [type(row.count) for row in rows]


def test_an_operation_has_the_lines_that_call_it() -> None:
    """The innermost line of the step's own code, how often per step; in the backward pass that which starts it."""
    weight = torch.ones(3, requires_grad=True)

    def step() -> None:
        loss = (weight * 2).sum()
        for _ in range(2):
            torch.erf(loss.detach())
        torch.erf(loss.detach())
        loss.backward()

    rows = attribute(step, device=CPU, num_steps=1)
    lines = {(row.phase, row.operation): row.lines for row in rows}
    erf = lines["other", "aten::erf float32"]
    first = step.__code__.co_firstlineno
    name = f"tests/runner/{Path(__file__).name}"
    assert erf == {
        f"{name}:{first + 3}: torch.erf(loss.detach())": 2,
        f"{name}:{first + 4}: torch.erf(loss.detach())": 1,
    }
    assert set(lines["backward", "aten::mul float32"]) == {f"{name}:{first + 5}: loss.backward()"}


def test_lines_are_printable_short_and_the_steps_own(tmp_path: Path) -> None:
    """Whatever a file and its folder are called; those of an installed package do not count."""
    odd = tmp_path / ("deep" * 40) / "net.py"
    installed = tmp_path / "site-packages" / "net.py"
    for file in (odd, installed):
        file.parent.mkdir(parents=True)
        file.write_text("import torch\ndef step():\n    torch.ones(2).erf()  # \u200b" + "x" * 300 + "\n")
        spec = importlib.util.spec_from_file_location("net", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        rows = attribute(module.step, device=CPU, num_steps=1)
        (lines,) = [row.lines for row in rows if row.operation == "aten::erf float32"]
        if file is odd:
            (line,) = lines
            assert "net.py:3: torch.ones(2).erf() # \\u200bxxx" in line
            assert len(line) <= 200
        assert not any("site-packages" in line for line in lines)
    Attributed(rows=rows)  # as it is sent
