"""Tests of perf/measure."""
