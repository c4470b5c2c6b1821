"""Rendering of results; nothing here computes one."""
