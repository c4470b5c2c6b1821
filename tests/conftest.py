"""What the tests share."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
import torch._dynamo  # every optimizer imports it

from perf.train.config import RunConfig
from perf.train.workloads import BertConfig
from tests.repositories import make_repository
from tests.workloads import SMALL

# An example builds tensors or writes files: its time says nothing, and CI machines are slow.
hypothesis.settings.register_profile("stepmark", deadline=None)
hypothesis.settings.load_profile("stepmark")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Give every test process one thread: results are then exactly repeatable, and parallel tests do not fight."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


@pytest.fixture(autouse=True, scope="session")
def _imported_for_good() -> None:
    """Keep collections from walking what was imported, as the runner does: each would take a tenth of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _usual_signals() -> None:
    """Reset the signals that stop a program to their usual handlers.

    Programs started in the background may ignore them.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _forgotten_projects() -> Iterator[None]:
    """Forget the modules of a test's project afterwards: those of the next may have the same names."""
    known, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if "/pytest-of-" in str(getattr(sys.modules[name], "__file__", "")):  # where pytest keeps its temporary folders
            del sys.modules[name]


@pytest.fixture(scope="session")
def workload() -> BertConfig:
    """A configuration that trains in milliseconds."""
    return SMALL


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two commits, in the place of this one, and an empty folder for temporary files."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # such as GIT_DIR in a hook of git's
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    make_repository(tmp_path / "repository")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "repository"


@pytest.fixture
def run_config(workload: BertConfig, tmp_path: Path) -> RunConfig:
    """A run of `workload` on the CPU: ten steps of 16 samples, a log line every two."""
    return RunConfig(
        workload=workload,
        global_batch_size=16,
        model_dir=tmp_path / "run",
        device=torch.device("cpu"),
        precision="fp32",
        max_steps=10,
        log_steps=2,
    )
