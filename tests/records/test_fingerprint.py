"""A fingerprint tells machines and software apart, and nothing that changes by itself is in it."""

from __future__ import annotations

import dataclasses
import platform

import pytest
import torch

from perf.records.fingerprint import Fingerprint, differences
from perf.runner.machine import fingerprint


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
        assert dataclasses.replace(here, hardware={**here.hardware, field: value}).slug != here.slug


def test_differences_name_the_fact() -> None:
    """Changed, new and missing facts are each told with both values."""
    assert differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "d": 5}) == [
        "b 2 -> 4",
        "c 3 -> not set",
        "d not set -> 5",
    ]
