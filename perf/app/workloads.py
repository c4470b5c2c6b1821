"""Which workloads there are: the built-in ones, and those in a project's own files."""

from collections.abc import Sequence
from pathlib import Path

from perf.errors import BaselineError
from perf.finding import find, own_workloads
from perf.printable import indented, printable
from perf.project import find_root, shown
from perf.train.workloads import WORKLOADS


def workloads(files: Sequence[Path]) -> int:
    """Print the built-in workloads and those in files, as in `own_workloads`, and return the exit code.

    Raises:
        BaselineError: a file has none or cannot be imported; the others were printed before.
    """
    root = find_root()
    own, problems = own_workloads(root, files)
    for target in (*(find(name, root) for name in WORKLOADS), *own):
        sizes = ", ".join(map(str, target.workload.global_batch_sizes))
        origin = shown(target.origin) if ":" in target.id else "built in"
        print(printable(f"{target.id} ({origin}), batch sizes {sizes}"))
        if target.workload.why:
            print(indented(printable(target.workload.why), 4))
    if problems:
        raise BaselineError("; ".join(problems))
    return 0
