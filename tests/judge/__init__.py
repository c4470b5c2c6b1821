"""Tests of perf/judge."""
