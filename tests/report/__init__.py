"""Tests of perf/report."""
