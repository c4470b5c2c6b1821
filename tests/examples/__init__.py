"""Tests of the projects under examples/."""
