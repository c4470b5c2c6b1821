"""Stepmark: measure a training step at each batch size, and judge it against a baseline."""

from perf.seam import Case, workload

__version__ = "0.3.0"
__all__ = ["Case", "workload"]
