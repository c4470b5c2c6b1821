"""The far side of the wire: a process that builds a step, steps, counts and attributes."""
