"""Stepmark: train a reference workload at each batch size, measure it honestly, judge it against a baseline."""

__version__ = "0.1.0"
