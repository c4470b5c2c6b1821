"""What a start costs: ``python -m docs.studies.starts`` prints the median time of commands that need no torch.

A test checks exactly what they import (tests/test_imports.py). This shows what that comes to in seconds; it is no gate.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = (
    ("-c", "pass"),
    ("-c", "import perf.plugin"),
    ("-m", "perf", "--help"),
    ("-m", "perf", "--version"),
    ("-m", "perf", "workloads"),
    ("-m", "perf", "promote", "--help"),
)
ROUNDS = 15


def main() -> None:
    """Time each command in turns."""
    seconds: dict[tuple[str, ...], list[float]] = {command: [] for command in COMMANDS}
    for _ in range(ROUNDS):
        for command in COMMANDS:
            began_s = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            seconds[command].append(time.perf_counter() - began_s)
    for command, found in seconds.items():
        print(f"{statistics.median(found):.3f} s (at most {max(found):.3f})  python {' '.join(command)}")


if __name__ == "__main__":
    main()
