"""The two sides of a duet: what a SPEC asks for, and the checkouts and environments made for it."""

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

import perf
from perf.commands import find_command
from perf.errors import MeasureError, UsageError
from perf.records.sessions import is_command
from perf.signals import hold_signals

_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[\w,.-]+\])?([=<>!~]=?=?[A-Za-z0-9.*+!_-]+)?")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)


class Recipe(Struct, frozen=True, kw_only=True):
    """What makes a side differ from what is here."""

    text: str  # as it was asked for
    commit: str = ""  # a git revision to check out; "" for the working tree
    packages: tuple[str, ...] = ()  # pip requirements to put before what is installed
    python: Path | None = None  # an interpreter; None for this one
    environ: Mapping[str, str] = {}  # environment variables to set
    is_baseline: bool = False  # whether commit and packages are to be those of the promoted baseline


def parse_recipe(parts: Sequence[str]) -> Recipe:
    """Return what the parts of a SPEC ask for together.

    Raises:
        ValueError: a part is not understood, or two of them exclude each other.
    """
    text = " ".join(parts)
    found: dict[str, Any] = {}
    for part in parts:
        kind, _, value = part.partition(":")
        values = value.split(",")
        if part == "baseline:":
            found["is_baseline"] = True
        elif kind == "git" and value and not value.startswith("-"):
            found["commit"] = value
        elif kind == "pip" and all(map(_REQUIREMENT.fullmatch, values)):
            found["packages"] = tuple(values)
        elif kind == "python" and os.access(value, os.X_OK) and not Path(value).is_dir():
            found["python"] = Path(value).absolute()
        elif kind == "env" and all(map(_SETTING.fullmatch, values)):
            found["environ"] = dict(setting.split("=", 1) for setting in values)
        elif part != "self":
            needed = "self, baseline:, git:REF, pip:NAME==VERSION,..., python:/path of a program, or env:NAME=VALUE,..."
            raise ValueError(f"{part!r}: is no SPEC; one is needed: {needed}")
    kinds = [part.partition(":")[0] for part in parts]
    for group in (("self", "git", "baseline"), ("pip", "baseline"), ("python",), ("env",)):
        if sum(kind in group for kind in kinds) > 1:
            raise ValueError(f"{text!r}: a side has at most one of {', '.join(group)}")
    return Recipe(text=text, **found)


# Where this process's own package lies: a checkout of this project, or an environment's packages.
HOME = Path(perf.__file__).parents[1]
_RUNNER = Path("perf", "runner", "__main__.py")

GRACE_S = 5.0  # for a command that is asked to end
# Of a temporary folder, the file in it that its process holds locked, and the checkout in it.
_PREFIX, _OWNER, _CHECKOUT = "stepmark-", "owner", "checkout"


class Side(Struct, frozen=True, kw_only=True):
    """A side that can be started."""

    name: str  # "baseline", "candidate", or "" where there is one side only
    text: str  # what was asked for, and which commit that is
    workload: str  # the id of what its runs train
    command: tuple[str, ...]  # its runner
    root: Path  # the checkout it runs in
    environ: Mapping[str, str]  # its whole environment
    timeout_s: float | None = None  # how long an answer may take, and at least `perf.measure.runners.ANSWER_TIMEOUT_S`
    grace_s: float = 0.0  # how long it is waited for when it is asked to end, before it is killed


def last_other_commit(root: Path, tree_is_candidate: bool) -> str:
    """Return the revision that the candidate is to be compared with: the last one that is not the same.

    The working tree, if it is the candidate, may be the last commit itself.

    Raises:
        MeasureError: there is no git repository, or no such commit.
    """
    git = ["git", "-C", str(root)]
    is_other = not tree_is_candidate or _tool("", [*git, "status", "--porcelain", "--untracked-files=no"]).strip()
    commit = "HEAD" if is_other else "HEAD~1"
    if not _tool("", [*git, "rev-parse", "--verify", "--quiet", commit]):
        raise MeasureError(f"{root}: has no commit {commit} to compare with; change something, or name a --baseline")
    return commit


def own_side(root: Path, workload: str, environ: Mapping[str, str]) -> Side:
    """Return the working tree as the only side; arguments as in `prepared`."""
    return _side(Recipe(text="self"), "", root, root, workload, environ)


@contextmanager
def prepared(
    recipe: Recipe,  # `is_baseline` has been resolved
    name: str,  # "baseline" or "candidate"; errors name it, and end with the tool's last lines
    root: Path,  # the project's folder, in a git repository if the recipe names a commit
    workload: str,  # the id of what its runs train
    environ: Mapping[str, str],  # what its environment is built on
) -> Iterator[Side]:
    """Make what a side needs, and remove its checkout afterwards; environments are kept for the next time.

    Checkouts that a killed process has left are removed first.
    """
    where = f"{name} side ({recipe.text})"
    top = Path(_tool("", ["git", "-C", str(root), "rev-parse", "--show-toplevel"]).strip()).resolve()  # else here
    _remove_abandoned(top)
    with ExitStack() as stack:
        there = root.resolve()
        if recipe.commit:
            there = _checkout(stack, where, recipe.commit, there, top)
        yield _side(recipe, name, there, root, workload, environ)


def _side(recipe: Recipe, name: str, there: Path, root: Path, workload: str, environ: Mapping[str, str]) -> Side:
    where, python = f"{name} side ({recipe.text})", recipe.python or Path(sys.executable)
    if recipe.packages:
        python = _environment(where, python, recipe.packages)
    version = _tool("", ["git", "-C", str(there), "describe", "--always", "--dirty"]).strip()
    text = f"{recipe.text} at {version}" if version else recipe.text
    command: tuple[str, ...]
    limits = {}
    if is_command(workload):
        try:
            entry, file = find_command(workload, [there, root])
        except UsageError as error:
            raise MeasureError(f"{where}: {error}") from None
        borrowed = "" if there in file.parents else file.name
        # This process's own package runs it, whatever else the command's environment lets Python find: that of the
        # user, then the entry's, in which another `python` comes first, then the SPEC's.
        code = f"import sys; sys.path.insert(0, {str(HOME)!r}); from perf.runner.commands import main; main()"
        options = ["--workload", workload, "--candidate-root", str(root), "--python", str(python)]
        command = (sys.executable, "-P", "-c", code, *options)
        environ = {**environ, **entry.environ}
        if recipe.python or recipe.packages:
            environ = {**environ, "PATH": os.pathsep.join([str(python.parent), environ.get("PATH", os.defpath)])}
        limits = {"timeout_s": entry.timeout_s + GRACE_S, "grace_s": GRACE_S}
    else:
        place = workload.rpartition(":")[0]
        borrowed = place if place.endswith(".py") and not (there / place).exists() else ""
        # A commit of this project brings its own runner. Everyone else's is served by the installed one, whose folder
        # is on the path only if it is no environment's: another interpreter has packages of its own.
        home = there if (there / _RUNNER).exists() else HOME
        if home != there and (root / _RUNNER).exists():
            raise MeasureError(f"{where}: is of a version before 0.2, which has no runner; use a later commit")
        options = ["--workload", workload, *(["--candidate-root", str(root)] if there != root else [])]
        # -P: a file of the project must not be taken for a module of ours, or of Python's.
        command = (str(python), "-P", "-m", "perf.runner", *options)
        path = ["" if home.name in ("site-packages", "dist-packages") else str(home), environ.get("PYTHONPATH", "")]
        # Hash order is part of a process's layout too, and is not what two sides are compared for.
        environ = {**environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, path))}
    return Side(
        name=name,
        text=f"{text}, with the candidate's {borrowed}" if borrowed else text,
        workload=workload,
        command=command,
        root=there,
        environ={**environ, **recipe.environ},
        **limits,
    )


def _checkout(stack: ExitStack, where: str, commit: str, root: Path, top: Path) -> Path:
    """Check out a commit of the repository `top`, until the stack ends, and return where `root` is in it."""
    with hold_signals():
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        owner = stack.enter_context((folder / _OWNER).open("w"))
        stack.callback(_remove, folder, top)
        fcntl.flock(owner, fcntl.LOCK_EX)  # a lock ends with its process, however that ends
    _tool(where, ["git", "-C", str(root), "worktree", "add", "--detach", str(folder / _CHECKOUT), commit])
    inside = folder / _CHECKOUT / root.relative_to(top)
    if not inside.is_dir():
        raise MeasureError(f"{where}: has no folder {root.relative_to(top)}; use a later commit")
    return inside


def _remove_abandoned(top: Path) -> None:
    """Remove the checkouts of this repository whose owner was killed: git lists them, and nobody holds their lock."""
    temporary = Path(tempfile.gettempdir()).resolve()
    for entry in _tool("", ["git", "-C", str(top), "worktree", "list", "--porcelain"]).split("\n\n")[1:]:  # not itself
        checkout = Path(entry.split("\n")[0].removeprefix("worktree "))
        if checkout != top and checkout.match(f"{temporary}/{_PREFIX}*/{_CHECKOUT}"):
            with suppress(OSError), (checkout.parent / _OWNER).open("r+") as owner:  # OSError: its owner lives
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(checkout.parent, top)


def _remove(folder: Path, top: Path) -> None:
    """Remove a checkout, then what git knows of it, then its folder: the owner file goes when nothing else is left."""
    root = folder / _CHECKOUT
    with hold_signals():
        shutil.rmtree(root, ignore_errors=True)
        # Twice forced: a checkout that was being made is locked.
        _tool("", ["git", "-C", str(top), "worktree", "remove", "--force", "--force", str(root)], timeout_s=60.0)
        if not root.exists():
            shutil.rmtree(folder, ignore_errors=True)


def _environment(where: str, python: Path, packages: tuple[str, ...]) -> Path:
    """Return the interpreter of a cached environment: the given packages before everything that `python` has."""
    code = "import sys; print(repr(sys.version), *(p for p in sys.path if p.endswith('-packages')), sep='\\n')"
    version, *below = _tool(where, [str(python), "-c", code]).splitlines()
    # After its own packages it finds those below, installed ones and checkouts: only what was named differs.
    path_line = "; ".join(["import site", *(f"site.addsitedir({folder!r})" for folder in below)]) + "\n"
    key = hashlib.sha256("\n".join([version, path_line, *packages]).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stepmark" / "environments"
    folder, whole = cache / key, cache / key / "whole"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what an interrupted attempt left
            _tool(where, [str(python), "-m", "venv", "--without-pip", str(folder)])
            inner = folder / "bin" / "python"
            (above,) = folder.glob("lib/python*/site-packages")
            (above / "zz-stepmark.pth").write_text(path_line)
            _tool(where, [str(python), "-m", "pip", "--python", str(inner), "install", "--quiet", *packages])
            whole.write_text("\n".join(packages))
    return folder / "bin" / "python"


def _tool(where: str, command: Sequence[str], timeout_s: float = 3600.0) -> str:
    """Run a tool to its end, in a process group of its own, and return what it printed.

    If it fails, that is an error of the side `where`; of no side, it printed nothing.
    """
    with tempfile.TemporaryFile() as output, ExitStack() as stack:
        try:
            with hold_signals():
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                )
                stack.callback(_end_tool, process)
            code = process.wait(timeout_s)
            problem = f"{' '.join(command[:6])} ... failed with exit code {code}"
        except (OSError, subprocess.TimeoutExpired) as error:
            code, problem = -1, str(error)
        output.seek(0)
        printed = output.read().decode(errors="replace")
    if code and where:
        last = " | ".join(printed.strip().splitlines()[-3:])
        raise MeasureError(f"{where}: {problem}{f'; its last lines: {last}' if last else ''}")
    return "" if code else printed


def _end_tool(process: subprocess.Popen[bytes]) -> None:
    with hold_signals():
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
