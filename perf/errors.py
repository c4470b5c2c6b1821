"""The errors that data, files or the state of a run can cause.

A message reads *where: what was found, what was needed; what to do*. Wrong arguments are ``ValueError``
or ``UsageError`` (exit code 2); a ``PerfError`` is a problem with data or state, told in one line (exit code 3).
"""

from perf.printable import printable

EXIT_PROBLEM = 3  # exit code of a command that such a problem ended


class PerfError(Exception):
    """Base of every problem with data or state that a user can cause and can solve."""


class DataError(PerfError):
    """A log file cannot be used."""


class CheckpointError(PerfError):
    """A checkpoint is damaged, foreign, or was written by another configuration."""


class NonFiniteError(PerfError):
    """A loss or a weight became NaN or infinite, so the run cannot go on."""


class MeasureError(PerfError):
    """A measuring process failed, ended or did not answer, or a side of a duet cannot be made."""


class BaselineError(PerfError):
    """A result or baseline file is damaged, foreign, or cannot be promoted; the message is one printable line."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UsageError(Exception):
    """Arguments that argparse cannot see are wrong."""


class MainRankError(PerfError):
    """The main rank already reported the error; this rank stops too."""


class RunFinishedError(PerfError, RuntimeError):
    """The checkpoint already stands at or beyond ``max_steps``: there is nothing left to run."""

    def __init__(self, *, global_step: int, max_steps: int, details: str = "") -> None:
        self.global_step, self.max_steps = global_step, max_steps
        # People search for this first sentence: it is the one the reference run failed with.
        sentence = f"Initial global step {global_step} already exceeds max step {max_steps}."
        super().__init__(f"{sentence} {details}" if details else sentence)
