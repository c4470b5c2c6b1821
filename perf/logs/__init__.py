"""Training logs: their lines, their rates, and an audit of both."""
