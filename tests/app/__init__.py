"""Tests of perf/app."""
