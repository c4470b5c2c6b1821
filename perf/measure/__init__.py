"""Measuring from outside: rounds of a bench, pairs of a duet, the sides and their processes."""
