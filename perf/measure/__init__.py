"""Measuring: runs in fresh processes, exact counters, and what machine and software they were made with."""
