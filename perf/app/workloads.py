"""Which workloads there are: the built-in ones, and those in a project's own files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perf.errors import BaselineError, UsageError
from perf.finding import Found, find, import_file, workloads_in
from perf.printable import printable
from perf.project import find_root, shown
from perf.train.workloads import WORKLOADS


def own_workloads(root: Path, files: Sequence[Path] = ()) -> tuple[list[Found], list[str]]:
    """Return the workloads in files (default: ``bench_*.py`` at the root), and what went wrong."""
    known: list[Found] = []
    problems = []
    for file in files or sorted(root.glob("bench_*.py")):
        try:
            if not file.is_file():
                raise UsageError(f"{file}: is not there; name a Python file that has a workload")
            found = workloads_in(import_file(file.resolve(), file.resolve().parent), root).values()
            known += found
            if not found:
                problems.append(f"{shown(file)}: has no workload; decorate a function with @perf.workload(...)")
        except UsageError as error:
            problems.append(str(error))
    return known, problems


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
            print(printable(f"    {target.workload.why}"))
    if problems:
        raise BaselineError("; ".join(problems))
    return 0
