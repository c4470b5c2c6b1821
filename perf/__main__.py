"""``python -m perf``: the command line."""

from perf.cli import run

if __name__ == "__main__":
    run()
