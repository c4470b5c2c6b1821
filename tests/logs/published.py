"""The published run of the reference machine, from baselines/cerebras-cs2/."""

from __future__ import annotations

import csv
from pathlib import Path

from perf.logs.runlog import EndLine, LogLine

_FILE = Path(__file__).parents[2] / "baselines" / "cerebras-cs2" / "bert-large-msl128.csv"

END_LINES = {
    1024: EndLine(samples=1_024_000, seconds=210.627485242),
    2048: EndLine(samples=2_048_000, seconds=304.240142671),
}


def log_lines(global_batch_size: int) -> list[LogLine]:
    """Return the ten published step lines of one batch size."""
    with _FILE.open(newline="") as file:
        return [
            LogLine(
                global_step=int(row["global_step"]),
                loss=float(row["loss"]),
                rate=float(row["rate_samples_per_sec"]),
                global_rate=float(row["global_rate_samples_per_sec"]),
            )
            for row in csv.DictReader(file)
            if int(row["global_batch_size"]) == global_batch_size
        ]
