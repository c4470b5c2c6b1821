"""Finds a project's root and its workloads, and the workload that an id names: a built-in one, or one of a project."""

import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from msgspec import Struct
from msgspec.structs import replace

import perf.train.workloads
from perf.commands import FILES, Command, find_command, load_commands
from perf.errors import UsageError
from perf.printable import printable, shown, wrapped
from perf.seam import Workload
from perf.train.workloads import WORKLOADS


class Found(Struct, frozen=True, kw_only=True):
    """A workload under the id that commands and files know it by."""

    id: str  # "pico" for a built-in one, "bench_net.py:net" for one in a file, "package.module:net" for one in a module
    workload: Workload | Command  # as its module or its entry defines it
    origin: Path  # the file that defines it


def find_root() -> Path:
    """Return the nearest folder from here upward that has a mark of a project's root, else the current one."""
    here, marks = Path.cwd(), ("pyproject.toml", "setup.cfg", "tox.ini", ".git")  # baselines/ and runs/ are beside them
    return next((path for path in (here, *here.parents) if any((path / mark).exists() for mark in marks)), here)


def find(
    name: str,  # the id; a file's path is relative to `root`, or to the current folder
    root: Path,  # the project's folder; what the module imports comes from here or from its ``src``
    fallback: Path | None = None,  # of a side that is a checkout, the candidate's root: for a file that `root` lacks
) -> Found:
    """Return the workload of an id.

    Raises:
        UsageError: there is none of that name, or its module cannot be imported, or it imports the candidate's modules.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon:
        if name in WORKLOADS:
            return Found(id=name, workload=WORKLOADS[name], origin=Path(perf.train.workloads.__file__))
        raise UsageError(f"workload {name!r}: is none of {', '.join(WORKLOADS)}; your own: FILE.py:NAME or MODULE:NAME")
    if place.endswith(".toml"):
        command, origin = find_command(name, [root, fallback or Path.cwd()])
        if root.resolve() not in origin.parents:
            raise UsageError(f"{origin}: is not in the project {root}, whose commits are compared; name a file in it")
        return Found(id=f"{origin.relative_to(root.resolve()).as_posix()}:{attribute}", workload=command, origin=origin)
    _put_first(root / "src", root)
    if place.endswith(".py"):
        # A path from the current folder is for whoever types it; a side knows its root only.
        places = [folder / place for folder in (root, fallback or Path.cwd())]
        file = next((path.resolve() for path in places if path.is_file()), None)
        if file is None:
            raise UsageError(f"workload file {place}: is not in {root}; name a Python file that has a workload")
        module = _imported(file, file.parent if fallback is None else (root / place).parent)
    else:
        module = _imported(place, root)
    found = workloads_in(module, root)
    if attribute not in found:
        raise UsageError(
            f"workload {name!r}: {place} has no workload {attribute} (there are {', '.join(found) or 'none'}); "
            "decorate a function with @perf.workload(global_batch_sizes=...)"
        )
    if fallback is not None:
        _require_own(name, root, fallback, found[attribute].origin)
    return found[attribute] if place.endswith(".py") else replace(found[attribute], id=name)


def _require_own(name: str, root: Path, candidate_root: Path, origin: Path) -> None:
    """Raise if a module came from the candidate's tree: the sides would be the same code, and be called equal."""
    for module in list(sys.modules.values()):
        file = Path(getattr(module, "__file__", None) or "/")
        foreign = candidate_root in file.parents and root not in file.parents and file != origin
        if foreign and is_own(file):
            raise UsageError(
                f"workload {name}: {module.__name__} was imported from {file}, which is the candidate's; this side's "
                f"commit has none under {root} or {root / 'src'}"
            )


def own_workloads(root: Path, files: Sequence[Path] = ()) -> list[Found]:
    """Return the workloads in files (default: ``bench_*.py`` and `FILES` at the root).

    Raises UsageError: a file cannot be imported, or has none.
    """
    known: list[Found] = []
    tables = [file for file in map(root.joinpath, FILES) if file.is_file()]
    for file in files or [*sorted(root.glob("bench_*.py")), *tables]:
        if file.suffix == ".toml":
            known += commands_in(file, root)
        elif found := workloads_in(_imported(file.resolve(), file.resolve().parent), root):
            known += found.values()
        else:
            raise UsageError(f"{shown(file)}: has no workload; decorate a function with @perf.workload(...)")
    return known


def commands_in(file: Path, root: Path) -> list[Found]:
    """Return the commands in a file. Raises UsageError: it is not what it should be."""
    place = (file.relative_to(root) if root in file.parents else file).as_posix()
    return [Found(id=f"{place}:{name}", workload=one, origin=file) for name, one in load_commands(file).items()]


def print_workloads(files: Sequence[Path]) -> int:
    """Print the built-in workloads and those in files, and return the exit code; errors as in `own_workloads`."""
    root = find_root()
    for target in (*(find(name, root) for name in WORKLOADS), *own_workloads(root, files)):
        sizes = ", ".join(map(str, target.workload.global_batch_sizes))
        origin = shown(target.origin) if ":" in target.id else "built in"
        print(printable(f"{target.id} ({origin}), batch sizes {sizes}"))
        if target.workload.why:
            print(wrapped(f"  {target.workload.why}"))
    return 0


def workloads_in(module: ModuleType, root: Path) -> dict[str, Found]:
    """Return the workloads that a module defines, by attribute; imported ones belong to the module they come from."""
    found: dict[str, Found] = {}
    origin = Path(getattr(module, "__file__", None) or "").resolve()
    place = (origin.relative_to(root) if root in origin.parents else origin).as_posix()
    for name, value in vars(module).items():
        if type(value) is not Workload or any(value is known.workload for known in found.values()):
            continue
        home = sys.modules.get(value.build.__module__, module)
        if home is module or not any(value is other for other in vars(home).values()):
            found[name] = Found(id=f"{place}:{name}", workload=value, origin=origin)
    return found


def in_one_line(error: BaseException) -> str:
    """Return an error of a user's code: what, and the last place in his files."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own(Path(frame.filename))]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return printable(f"{type(error).__name__}: {error}{where}")


def is_own(file: Path) -> bool:
    """Return whether a file is none of Python's, of installed packages or of stepmark."""
    libraries = {Path(__file__).parent, Path(sysconfig.get_path("stdlib"))} & {*file.parents}
    return not (libraries or str(file).startswith("<") or {"site-packages", "dist-packages"} & {*file.parts})


def _imported(place: Path | str, folder: Path) -> ModuleType:
    _put_first(folder)
    try:
        if isinstance(place, str):
            return importlib.import_module(place)
        loader = SourceFileLoader(place.stem, str(place))  # whatever the file's name ends with
        spec = importlib.util.spec_from_file_location(place.stem, place, loader=loader)
        assert spec is not None
        module = sys.modules[place.stem] = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: a script that runs when it is imported
        raise UsageError(f"{place}: cannot be imported: {in_one_line(error)}") from error
    return module


def _put_first(*folders: Path) -> None:
    for folder in folders:
        if folder.is_dir() and str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
