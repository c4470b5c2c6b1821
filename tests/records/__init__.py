"""Tests of perf/records."""
