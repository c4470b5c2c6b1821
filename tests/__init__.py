"""Tests; they mirror the rooms of perf/."""
