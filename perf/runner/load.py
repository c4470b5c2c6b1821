"""Finds a workload by its id, and makes its cases."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from perf.errors import MeasureError
from perf.records.wire import CaseSpec
from perf.seam import Case, Workload
from perf.train.devices import resolve_device, resolve_precision
from perf.train.workloads import WORKLOADS


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A workload that was found.

    Attributes:
        workload: as its module defines it.
        origin: the file that defines it.
    """

    workload: Workload
    origin: Path


def load(name: str, root: Path, candidate_root: Path | None) -> Loaded:
    """Import the module of a workload.

    Args:
        name: "pico" for a built-in one, "bench_net.py:net" for one in a file, "package.module:net" for one in a module.
        root: the project's folder on this side; what the module imports comes from here.
        candidate_root: that of the other side, if this side is a checkout: its file is used where this side has none.

    Raises:
        MeasureError: there is no such workload, or its module could not be imported, or not from here.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon:
        if name not in WORKLOADS:
            raise MeasureError(
                f"workload {name!r}: is none of {', '.join(WORKLOADS)}; name one of them, FILE.py:NAME or MODULE:NAME"
            )
        return Loaded(workload=WORKLOADS[name], origin=Path(sys.modules[BUILTIN].__file__ or ""))
    for folder in (root / "src", root):
        if folder.is_dir():
            sys.path.insert(0, str(folder))
    try:
        module = _from_file(place, root, candidate_root) if place.endswith(".py") else importlib.import_module(place)
    except MeasureError:
        raise
    except BaseException as error:
        raise MeasureError(f"workload {name}: cannot be imported: {described(error)}") from None
    origin = Path(module.__file__ or "")
    if candidate_root is not None:
        _require_own(name, sys.modules.values(), root, candidate_root, origin)
    found = getattr(module, attribute, None)
    if not isinstance(found, Workload):
        known = [key for key, value in vars(module).items() if isinstance(value, Workload)]
        raise MeasureError(
            f"workload {name}: {origin} has no workload {attribute} (it has {', '.join(known) or 'none'}); "
            "decorate a function with @perf.workload(global_batch_sizes=...)"
        )
    return Loaded(workload=found, origin=origin)


BUILTIN = "perf.train.workloads"


def make_case(workload: Workload, spec: CaseSpec) -> Case:
    """Return the case that a request asks for; what it leaves open is the workload's, then the machine's.

    Raises:
        ValueError: the device is not there, or the micro-batch size does not divide the batch.
    """
    size, device = spec.global_batch_size, resolve_device(spec.device)
    micro_batch_size = spec.micro_batch_size or workload.micro_batch_size_of(size)
    if size % micro_batch_size:
        raise ValueError(f"micro-batch size {micro_batch_size} does not divide global batch size {size}")
    return Case(
        global_batch_size=size,
        micro_batch_size=micro_batch_size,
        seed=spec.seed,
        device=str(device),
        precision=resolve_precision(spec.precision or workload.precision, device),
    )


def described(error: BaseException) -> str:
    """Return an error of the user's code in one line: what, and the last place in his files."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def _is_library(filename: str) -> bool:
    parts = Path(filename).parts
    return "site-packages" in parts or filename.startswith("<") or Path(__file__).parents[1] in Path(filename).parents


def _from_file(place: str, root: Path, candidate_root: Path | None) -> ModuleType:
    file = root / place
    if not file.is_file() and candidate_root is not None:
        file = candidate_root / place
    if not file.is_file():
        raise MeasureError(
            f"workload {place}: there is no file {root / place}; name one relative to the project's root"
        )
    sys.path.insert(0, str((root / place).parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def _require_own(name: str, modules: Iterable[ModuleType], root: Path, candidate_root: Path, origin: Path) -> None:
    """Raise if a module came from the other side's tree: the sides would be the same code, and be called equal."""
    for module in list(modules):
        file = Path(getattr(module, "__file__", None) or "/")
        foreign = candidate_root in file.parents and root not in file.parents and file != origin
        if foreign and not {"site-packages", "dist-packages"} & set(file.parts):
            raise MeasureError(
                f"workload {name}: {module.__name__} was imported from {file}, which is the candidate's; this side's "
                f"commit has none under {root} or {root / 'src'}"
            )
