"""Tests of perf/logs."""
