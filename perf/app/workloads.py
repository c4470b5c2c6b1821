"""Which workloads there are: the built-in ones, and those in a project's own files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perf.errors import UsageError
from perf.finding import Found, find, import_file, workloads_in
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


def list_workloads(files: Sequence[Path]) -> tuple[list[Found], list[str]]:
    """Return the built-in workloads and those in files, as in `own_workloads`, and what went wrong."""
    root = find_root()
    own, problems = own_workloads(root, files)
    return [*(find(name, root) for name in WORKLOADS), *own], problems
