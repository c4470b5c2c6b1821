"""Rendering of results for people; nothing here computes one."""
