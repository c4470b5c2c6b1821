"""Judging: statistics, claims and verdicts."""
