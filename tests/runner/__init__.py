"""Tests of perf/runner."""
