"""A process and whatever it starts: gone when the block ends."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from perf.measure.processes import Process

FORKS = """
import os, signal
pid = os.fork()
if pid:
    print(f'{{"event": "forked", "pid": {pid}}}', flush=True)
signal.pause()
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes in /proc")
def test_what_a_process_has_forked_ends_with_it() -> None:
    """Also when neither of them listens to anything."""
    with Process([sys.executable, "-c", FORKS], environ=os.environ) as process:
        forked = process.answer("forked", timeout_s=30.0)["pid"]
        assert alive(forked)
    deadline = time.monotonic() + 10
    while alive(forked):
        assert time.monotonic() < deadline


def alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
