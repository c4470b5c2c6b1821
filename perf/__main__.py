"""``python -m perf``: the command line."""

from perf.signals import exit_on_signals

with exit_on_signals():  # an interrupt in the import would be a traceback from anywhere
    from perf.cli import run

if __name__ == "__main__":
    run()
