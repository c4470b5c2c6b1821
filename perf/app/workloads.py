"""Workloads by name: the built-in ones, and those in a project's own files."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from perf.errors import UsageError
from perf.printable import printable
from perf.project import find_root, shown
from perf.seam import Workload
from perf.train.workloads import WORKLOADS


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A workload under the id that commands and files know it by.

    Attributes:
        id: "pico", "bench_net.py:net" or "package.module:net".
        workload: the workload; its sizes, precision, threshold and reason.
        origin: the file that defines it; None for a built-in one.
    """

    id: str
    workload: Workload
    origin: Path | None = None

    @property
    def threshold(self) -> float | None:
        """Its own smallest change that matters, a fraction."""
        return self.workload.threshold

    def precision(self, asked: str | None, device: str) -> str:
        """Return what to compute in; a built-in workload in fp32 on a CPU: portable baselines hold on every one."""
        if asked or self.origin:
            return asked or str(self.workload.precision)
        return "fp32" if device == "cpu" else "auto"


def resolve(name: str, root: Path) -> Target:
    """Return the workload of a name or id.

    Args:
        name: a built-in one's, or FILE.py:NAME (a path from the current folder or from the root), or MODULE:NAME.
        root: the project's.

    Raises:
        UsageError: there is none of that name, or its module cannot be imported.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon:
        if name in WORKLOADS:
            return Target(id=name, workload=WORKLOADS[name])
        raise UsageError(
            f"workload {name!r}: is not built in{near(name, WORKLOADS)}; your own: FILE.py:NAME or MODULE:NAME"
        )
    module = _file(place, root) if place.endswith(".py") else _module(place, root)
    found = workloads_in(module, root)
    if attribute not in found:
        raise UsageError(f"workload {name!r}: {place} has no workload {attribute}{near(attribute, found)}")
    target = found[attribute]
    return target if place.endswith(".py") else Target(id=name, workload=target.workload, origin=target.origin)


def workloads_in(module: ModuleType, root: Path) -> dict[str, Target]:
    """Return the workloads that a module defines, by attribute; imported ones belong to the module they come from."""
    found: dict[str, Target] = {}
    origin = Path(module.__file__ or "")
    for name, value in vars(module).items():
        if type(value) is not Workload or any(value is target.workload for target in found.values()):
            continue
        home = sys.modules.get(value.build.__module__, module)
        if home is module or not any(value is other for other in vars(home).values()):
            found[name] = Target(id=f"{_relative(origin, root)}:{name}", workload=value, origin=origin)
    return found


def list_workloads(files: Sequence[Path]) -> tuple[list[Target], list[str]]:
    """Return the built-in workloads and those in files (default: ``bench_*.py`` at the root), and what went wrong."""
    root = find_root()
    targets, problems = [Target(id=name, workload=workload) for name, workload in WORKLOADS.items()], []
    for file in files or sorted(root.glob("bench_*.py")):
        try:
            found = workloads_in(_file(str(file), root), root).values()
            targets += found
            if not found:
                problems.append(f"{shown(file)}: has no workload; decorate a function with @perf.workload(...)")
        except UsageError as error:
            problems.append(str(error))
    return targets, problems


def _file(place: str, root: Path) -> ModuleType:
    path = next((path for path in (Path(place).absolute(), root / place) if path.is_file()), None)
    if path is None:
        raise UsageError(f"{place}: is no file here or in {root}; name a Python file that has a workload")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module
    try:
        return _imported(place, [path.parent], lambda: spec.loader.exec_module(module)) or module
    finally:
        if before is not None:
            sys.modules[path.stem] = before


def _module(place: str, root: Path) -> Any:
    return _imported(place, [root / "src", root], lambda: importlib.import_module(place))


def _imported(place: str, folders: Iterable[Path], load: Any) -> Any:
    """Import with `folders` on the path, after everything that is installed: nothing of theirs hides a library."""
    sys.path += [str(folder) for folder in folders if folder.is_dir() and str(folder) not in sys.path]
    try:
        return load()
    except Exception as error:
        raise UsageError(printable(f"{place}: cannot be imported: {type(error).__name__}: {error}")) from error


def _relative(path: Path, root: Path) -> str:
    path = path.resolve()
    return (path.relative_to(root) if root in path.parents else path).as_posix()


def near(name: str, known: Iterable[str]) -> str:
    """Return which known names a wrong one is close to, or all of them, as the end of a sentence."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=2)
    return f" (did you mean {' or '.join(close)}?)" if close else f" (there are {', '.join(known) or 'none'})"
