"""Warm-up is found only where there is one; a fingerprint tells machines and software apart, and nothing volatile."""

from __future__ import annotations

import platform
from contextlib import nullcontext

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy import stats

from perf.records.sessions import (
    Fingerprint,
    MeasuredRun,
    configuration,
    deviation,
    differences,
    find_warmup,
    is_command,
)
from perf.runner.machine import fingerprint
from tests.judge.test_verdicts import quiet

STEADY = [0.100, 0.102, 0.099, 0.101, 0.098, 0.103, 0.100, 0.099, 0.101, 0.100, 0.102, 0.098]


@pytest.mark.parametrize("slow", [[], [0.3], [0.3, 0.2], [0.5, 0.3, 0.15]])
def test_slow_steps_at_the_front_are_warmup(slow: list[float]) -> None:
    """As many steps are dropped as are slower than the later ones explain."""
    assert find_warmup(slow + STEADY) == len(slow)


def test_a_slow_step_later_on_is_no_warmup() -> None:
    """A disturbance after the first good step stays in the data."""
    assert find_warmup([0.3, *STEADY[:3], 0.5, *STEADY]) == 1


def test_a_slow_phase_is_no_warmup() -> None:
    """A machine that is slow for the whole first half was not warming up: one step goes, not half the run."""
    assert find_warmup([0.14] * 12 + STEADY) == 1


@given(st.lists(st.floats(0.001, 10.0), min_size=4, max_size=60))
def test_at_least_half_of_the_steps_stay(step_s: list[float]) -> None:
    """Whatever the times are, most of a run is used."""
    assert 0 <= find_warmup(step_s) <= len(step_s) // 2


def test_noise_alone_is_seldom_taken_for_warmup() -> None:
    """Of runs without any warm-up, few lose a step."""
    rng = np.random.default_rng(0)
    runs = np.exp(rng.normal(scale=0.03, size=(500, 20)))
    assert sum(find_warmup(run) > 0 for run in runs.tolist()) < 50


def test_the_deviation_is_scipys() -> None:
    """The median absolute deviation on the scale of a normal distribution, along the last axis."""
    values = np.random.default_rng(0).normal(size=(3, 7))
    expected = stats.median_abs_deviation(values, axis=-1, scale="normal")
    assert deviation(values) == pytest.approx(expected, rel=1e-5)
    assert deviation(values[0]) == pytest.approx(expected[0], rel=1e-5)


def test_a_machine_is_the_same_twice() -> None:
    """Two fingerprints of one process are equal."""
    assert fingerprint() == fingerprint()


def test_nothing_volatile_is_in_it() -> None:
    """No host name, no clock frequency, no load."""
    here = fingerprint()
    facts = {str(value) for value in (*here.hardware.values(), *here.software.values())}
    assert platform.node() not in facts
    assert not any("mhz" in fact.lower() or "load" in fact.lower() for fact in {*here.hardware, *here.software, *facts})


def test_threads_and_environment_are_software(monkeypatch: pytest.MonkeyPatch) -> None:
    """What explains a change of speed without a change of machine is listed, and other variables are not."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("HOME_SWEET_HOME", "here")
    software = fingerprint().software
    assert software["$OMP_WAIT_POLICY"] == "passive"
    assert software["threads"] == torch.get_num_threads()
    assert software["torch"] == torch.__version__
    assert "$HOME_SWEET_HOME" not in software


def test_a_slug_is_a_folder_name_that_tells_machines_apart() -> None:
    """Cores, memory, instruction set and GPUs are all in it; nothing in it needs quoting."""
    here = Fingerprint(
        hardware={
            "cpu": "AMD EPYC 7B13 (tm)/x", "cores": 16, "isa": "AVX512", "memory_gib": 128,
            "gpu": "NVIDIA H100 80GB HBM3", "num_gpus": 2,
        },
        software={},
    )  # fmt: skip
    assert here.slug == "amd-epyc-7b13-tm-x-16c-128gib-avx512-2x-nvidia-h100-80gb-hbm3"
    for field, value in (("cores", 8), ("memory_gib", 64), ("isa", "AVX2"), ("num_gpus", 1), ("gpu", "L4")):
        assert msgspec.structs.replace(here, hardware={**here.hardware, field: value}).slug != here.slug


def test_differences_name_the_fact() -> None:
    """Changed, new and missing facts are each told with both values."""
    assert differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "d": 5}) == [
        "b 2 -> 4",
        "c 3 -> not set",
        "d not set -> 5",
    ]


@pytest.mark.parametrize(("workload", "has_counters"), [("stepmark.toml:bert", True), ("pico", False)])
def test_only_runs_of_a_step_have_counters(workload: str, has_counters: bool) -> None:
    """A log does not tell what a step does; of a workload that we step ourselves it is always known."""
    made = quiet()
    for kept, is_refused in ((has_counters, True), (not has_counters, False)):
        measurements = {
            size: replace(one, runs=tuple(replace(run, counters=run.counters if kept else None) for run in one.runs))
            for size, one in made.measurements.items()
        }
        with pytest.raises(ValueError, match="counters: ") if is_refused else nullcontext():
            replace(made, workload=workload, measurements=measurements)


def test_a_command_has_no_device_and_no_precision_in_its_name() -> None:
    """Nobody knows them; others have both."""
    assert configuration("stepmark.toml:bert", "", "") == "stepmark.toml:bert"
    assert configuration("bench_net.py:net", "cpu", "fp32") == "bench_net.py:net-cpu-fp32"
    assert is_command("sub/pyproject.toml:bert")
    assert not any(map(is_command, ("pico", "bench_net.py:net", "stepmark.toml")))


def test_values_of_a_log_fit_together() -> None:
    """Of each log window a loss, a time and the step that ends it; every value has a step."""
    losses, steps = (4.0, 3.0, 2.0, 1.0), (10, 20, 30, 40)
    assert tuple(MeasuredRun(losses=losses).at_steps) == (1, 2, 3, 4)
    assert MeasuredRun(losses=losses, steps=steps).at_steps == steps
    with pytest.raises(ValueError, match="4 losses and 3 steps do not fit together"):
        MeasuredRun(losses=losses, steps=steps[:3])
    with pytest.raises(ValueError, match="4 losses and 2 printed times do not fit together"):
        MeasuredRun(losses=losses, steps=steps, printed_s=(1.0, 1.0))
