"""SPECs, and the checkouts and environments they need: made as asked, named when they fail, gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from perf.errors import MeasureError
from perf.measure import sides
from perf.measure.runners import Runner
from perf.measure.sides import HOME, parse_recipe, prepared
from perf.signals import STOPS, stopped_by_signals
from tests.measure.test_runners import interrupted_inside_popen
from tests.repositories import git, left


def test_parts_of_a_spec_add_up() -> None:
    """A side can be a commit with other packages, interpreter and variables; values may hold colons and equal signs."""
    recipe = parse_recipe(["git:HEAD~1", "pip:numpy==2.3.5,scipy", f"python:{sys.executable}", "env:A=1,B=x=y:z"])
    assert recipe.commit == "HEAD~1"
    assert recipe.packages == ("numpy==2.3.5", "scipy")
    assert recipe.python == Path(sys.executable)
    assert recipe.environ == {"A": "1", "B": "x=y:z"}
    assert parse_recipe(["baseline:"]).is_baseline
    assert parse_recipe(["self"]) == sides.Recipe(text="self")


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        (["HEAD"], "'HEAD': is no SPEC; one is needed: self, baseline:"),
        (["git:"], "'git:': is no SPEC"),
        (["git:--upload-pack=x"], "'git:--upload-pack=x': is no SPEC"),
        (["pip:--index-url=x"], "'pip:--index-url=x': is no SPEC"),
        (["pip:numpy @ file:///x"], "'pip:numpy @ file:///x': is no SPEC"),
        (["pip:"], "'pip:': is no SPEC"),
        (["env:1A=2"], "'env:1A=2': is no SPEC"),
        (["env:A"], "'env:A': is no SPEC"),
        (["python:/nonexistent"], "'python:/nonexistent': is no SPEC"),
        (["baseline:x"], "'baseline:x': is no SPEC"),
        (["self:"], "'self:': is no SPEC"),
        (["git:HEAD", "git:HEAD~1"], "at most one of self, git, baseline"),
        (["git:HEAD", "self"], "at most one of self, git, baseline"),
        (["git:HEAD", "baseline:"], "at most one of self, git, baseline"),
        (["baseline:", "pip:numpy"], "at most one of pip, baseline"),
        (["env:A=1", "env:B=2"], "at most one of env"),
    ],
)
def test_what_is_no_spec_is_refused(parts: list[str], problem: str) -> None:
    """The part that is not understood is named, and what is needed."""
    with pytest.raises(ValueError, match=problem):
        parse_recipe(parts)


def test_a_commit_is_checked_out_and_gone_afterwards(repository: Path) -> None:
    """The working tree and the list of worktrees are as before, also after an error inside."""
    with prepared(parse_recipe(["git:HEAD~1", "env:A=1"]), "baseline", repository, "pico", {"B": "2"}) as side:
        assert (side.root / "file").read_text() == "first"
        assert side.environ["A"] == "1"
        assert side.environ["B"] == "2"
        assert side.command[-2:] == ("--candidate-root", str(repository))
        assert git(repository, "rev-parse", "--short", "HEAD~1").strip() in side.text
    assert left(repository) == []

    def interrupted() -> None:
        with prepared(parse_recipe(["git:HEAD"]), "baseline", repository, "pico", {}):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert left(repository) == []
    assert (repository / "file").read_text() == "second"


def test_a_commit_that_is_not_there_names_the_side(repository: Path) -> None:
    """The error says which side, which revision, and leaves nothing behind."""
    with (
        pytest.raises(MeasureError, match=r"candidate side \(git:nonesuch\): .*invalid reference: nonesuch"),
        prepared(parse_recipe(["git:nonesuch"]), "candidate", repository, "pico", {}),
    ):
        pass
    assert left(repository) == []


KILLED = """
import os, signal, subprocess, sys, tempfile
from pathlib import Path
from perf.measure import sides
tempfile.tempdir = sys.argv[2]
with sides.prepared(sides.parse_recipe(["git:HEAD"]), "baseline", Path(sys.argv[1]), "pico", {}) as side:
    subprocess.run(["git", "-C", sys.argv[1], "worktree", sys.argv[3], str(side.root)], check=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("then", ["repair", "lock"], ids=["whole", "being made"])
def test_the_next_start_removes_what_a_killed_one_has_left(repository: Path, then: str) -> None:
    """The checkout, its folder, and git's record of it, also of one that git was still making and holds locked."""
    command = [sys.executable, "-c", KILLED, str(repository), tempfile.gettempdir(), then]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run(command, env=environ).returncode == -signal.SIGKILL
    assert len(left(repository)) == 2
    with prepared(parse_recipe(["self"]), "baseline", repository, "pico", {}):
        assert left(repository) == []


def test_what_a_living_process_uses_stays(repository: Path) -> None:
    """Two duets at once do not disturb each other."""
    with prepared(parse_recipe(["git:HEAD"]), "baseline", repository, "pico", {}) as one:
        with prepared(parse_recipe(["git:HEAD"]), "baseline", repository, "pico", {}) as other:
            assert (one.root / "file").exists()
            assert len(left(repository)) == 4
        assert not other.root.exists()
        assert (one.root / "file").exists()
        assert len(left(repository)) == 2
    assert left(repository) == []


def test_a_worktree_of_the_users_stays(repository: Path, tmp_path: Path) -> None:
    """Whatever it is called and whatever lies beside it, outside of the temporary folder."""
    mine = tmp_path / "elsewhere" / "stepmark-mine" / "checkout"
    git(repository, "worktree", "add", "--detach", str(mine))
    (mine.parent / "owner").touch()
    with prepared(parse_recipe(["self"]), "baseline", repository, "pico", {}):
        pass
    assert mine.is_dir()


@pytest.mark.parametrize("owner", [None, "owner"], ids=["no owner", "unknown to git"])
def test_what_is_not_ours_stays(repository: Path, owner: str | None) -> None:
    """A worktree or a folder whose name is like ours can be anybody's."""
    folder = Path(tempfile.gettempdir()) / "stepmark-x"
    folder.mkdir()
    if owner:
        (folder / owner).touch()
        (folder / "checkout").mkdir()
    else:
        git(repository, "worktree", "add", "--detach", str(folder / "checkout"))
    with prepared(parse_recipe(["self"]), "baseline", repository, "pico", {}):
        pass
    assert (folder / "checkout").exists()


def test_an_interrupt_while_a_folder_is_made_leaves_none(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt comes after the folder is made and before its name is stored."""
    real = tempfile.mkdtemp

    def mkdtemp(**options: str) -> str:
        folder = real(**options)
        signal.raise_signal(signal.SIGINT)
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with pytest.raises(KeyboardInterrupt):
        prepared(parse_recipe(["git:HEAD"]), "baseline", repository, "pico", {}).__enter__()
    assert left(repository) == []


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("tool", ["rev-parse", "add"])
def test_an_interrupt_while_a_tool_is_started_leaves_nothing(
    repository: Path, number: signal.Signals, tool: str
) -> None:
    """Neither the tool, which would go on for long, nor a folder."""

    def start() -> None:
        with stopped_by_signals(), prepared(parse_recipe(["git:HEAD"]), "baseline", repository, "pico", {}):
            pytest.fail("the signal was lost")

    with interrupted_inside_popen(number, lambda command: tool in command) as made:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert [process.returncode for process in made] == [-signal.SIGKILL]
    assert left(repository) == []


def wheel(folder: Path, version: str) -> None:
    """Write a package that knows its version."""
    about = f"stepmarkprobe-{version}.dist-info"
    with zipfile.ZipFile(folder / f"stepmarkprobe-{version}-py3-none-any.whl", "w") as file:
        file.writestr("stepmarkprobe.py", f"VERSION = {version!r}\n")
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: stepmarkprobe\nVersion: {version}\n")
        file.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{about}/RECORD", "")


def test_packages_come_before_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each set of packages is an environment of its own, made once; everything else is what is installed here."""
    for version in ("1.0", "2.0"):
        wheel(tmp_path, version)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def versions(version: str) -> list[str]:
        with prepared(
            parse_recipe([f"pip:stepmarkprobe=={version}"]), "candidate", tmp_path, "pico", os.environ
        ) as side:
            code = "import stepmarkprobe, numpy; print(stepmarkprobe.VERSION, numpy.__version__)"
            command = [side.command[0], "-c", code]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    numpy = versions("1.0")[1]
    assert versions("2.0") == ["2.0", numpy]
    (tmp_path / "stepmarkprobe-1.0-py3-none-any.whl").unlink()  # it must come from the cache
    assert versions("1.0") == ["1.0", numpy]


def test_beside_packages_the_paths_of_an_interpreter_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install is a path in a file of the interpreter's; it is found behind other packages, too."""
    wheel(tmp_path, "1.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "base")], check=True)
    (packages,) = (tmp_path / "base").glob("lib/python*/site-packages")
    find_pip = [sys.executable, "-c", "import pip, pathlib; print(pathlib.Path(pip.__file__).parents[1])"]
    pip = subprocess.run(find_pip, check=True, capture_output=True, text=True).stdout
    (packages / "edited.pth").write_text(f"{tmp_path / 'checkout'}\n{pip}")
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "stepmarkedited.py").touch()
    recipe = parse_recipe(["pip:stepmarkprobe==1.0", f"python:{tmp_path / 'base' / 'bin' / 'python'}"])
    with prepared(recipe, "candidate", tmp_path, "pico", os.environ) as side:
        subprocess.run([side.command[0], "-c", "import stepmarkedited, stepmarkprobe"], check=True)


def test_packages_that_cannot_be_installed_name_the_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error ends with what pip said last, and the next attempt starts over."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = parse_recipe(["pip:stepmarkprobe==1.0"])
    with pytest.raises(MeasureError, match=r"candidate side \(pip:stepmarkprobe==1.0\).*No matching distribution"):
        prepared(recipe, "candidate", tmp_path, "pico", os.environ).__enter__()
    wheel(tmp_path, "1.0")
    (folder,) = (tmp_path / "cache" / "stepmark" / "environments").glob("*/")
    (folder / "left behind").touch()
    with prepared(recipe, "candidate", tmp_path, "pico", os.environ) as side:
        assert Path(side.command[0]).parents[1] == folder
    assert not (folder / "left behind").exists()


def test_a_commit_of_this_project_brings_its_own_runner(repository: Path) -> None:
    """Everyone else's checkouts are served by the installed package, whatever modules of that name they have."""
    (repository / "perf.py").write_text("raise SystemExit('not this one')\n")
    with prepared(parse_recipe(["git:HEAD"]), "baseline", repository, "pico", {}) as side:
        assert side.environ["PYTHONPATH"] == str(HOME)
        assert side.command[1:4] == ("-P", "-m", "perf.runner")
    (repository / "perf" / "runner").mkdir()
    (repository / "perf" / "runner" / "__main__.py").write_text("\n")
    git(repository, "add", ".")
    git(repository, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "-m", "runner")
    with prepared(parse_recipe(["git:HEAD"]), "baseline", repository, "pico", {}) as side:
        assert side.environ["PYTHONPATH"] == str(side.root)
    with (
        pytest.raises(MeasureError, match=r"baseline side \(git:HEAD~1\): is of a version before 0\.2"),
        prepared(parse_recipe(["git:HEAD~1"]), "baseline", repository, "pico", {}),
    ):
        pass
    assert left(repository) == []


def test_a_project_may_lie_below_its_repository(repository: Path) -> None:
    """Its side is the same folder of the checkout."""
    (repository / "sub").mkdir()
    (repository / "sub" / "file").write_text("third")
    git(repository, "add", ".")
    git(repository, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "-m", "sub")
    with prepared(parse_recipe(["git:HEAD"]), "baseline", repository / "sub", "pico", {}) as side:
        assert (side.root / "file").read_text() == "third"
    assert left(repository) == []


def test_a_commit_needs_a_repository(tmp_path: Path) -> None:
    """A project without git can compare packages, interpreters and settings only."""
    with (
        pytest.raises(MeasureError, match=r"baseline side \(git:HEAD\): .*not a git repository"),
        prepared(parse_recipe(["git:HEAD"]), "baseline", tmp_path, "pico", {}),
    ):
        pass


def test_a_side_says_whose_workload_file_it_runs(repository: Path) -> None:
    """The candidate's, where the commit has none; its own where it has one."""
    (repository / "bench_net.py").write_text("net = 1")
    for name, borrowed in (("bench_net.py:net", True), ("file:net", False), ("pico", False)):
        with prepared(parse_recipe(["git:HEAD"]), "baseline", repository, name, {}) as side:
            assert side.text.endswith(", with the candidate's bench_net.py") == borrowed
    git(repository, "add", ".")
    git(repository, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "-m", "bench")
    with prepared(parse_recipe(["git:HEAD"]), "baseline", repository, "bench_net.py:net", {}) as side:
        assert "candidate's" not in side.text


def command_file(root: Path, **entries: float) -> None:
    """Write a command of each name, with the time that its runs may take."""
    table = '[command.{}]\nrun = "true"\nglobal_batch_sizes = [8]\ntimeout_s = {}\n'
    (root / "stepmark.toml").write_text("".join(table.format(name, timeout_s) for name, timeout_s in entries.items()))


def test_a_command_runs_in_its_checkout_in_its_own_environment(repository: Path) -> None:
    """Nothing is set but what the SPEC sets, not even for Python; this package serves it; its time is its entry's."""
    command_file(repository, net=60.0)
    git(repository, "add", ".")
    git(repository, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "-m", "command")
    recipe = parse_recipe(["git:HEAD", "env:A=1"])
    with prepared(recipe, "baseline", repository, "stepmark.toml:net", {"PATH": "/bin", "A": "0"}) as side:
        assert side.environ == {"PATH": "/bin", "A": "1"}
        assert side.root != repository
        assert (side.root / "stepmark.toml").exists()
        assert (side.timeout_s, side.grace_s) == (60.0 + sides.GRACE_S, sides.GRACE_S)
        assert side.command[0] == sys.executable
        assert side.command[-6:] == (
            "--workload", "stepmark.toml:net", "--candidate-root", str(repository), "--python", sys.executable,
        )  # fmt: skip
        assert "candidate's" not in side.text
        with ExitStack() as stack:
            Runner(stack, msgspec.structs.replace(side, environ=os.environ)).ready()


def test_another_python_comes_first_on_the_path_of_a_command(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So `python` in its scripts is what the SPEC names, or has the packages that the SPEC names."""
    command_file(repository, net=60.0)
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.symlink_to(sys.executable)
    recipe = parse_recipe([f"python:{python}"])
    with prepared(recipe, "candidate", repository, "stepmark.toml:net", {"PATH": "/bin"}) as side:
        assert side.environ == {"PATH": f"{tmp_path / 'bin'}:/bin"}
        assert side.command[0] == sys.executable
        assert side.command[-2:] == ("--python", str(python))
    made = Path("/made/bin/python")
    monkeypatch.setattr(sides, "_environment", lambda where, python, packages: made)
    recipe = parse_recipe(["pip:numpy==2.3.5"])
    with prepared(recipe, "candidate", repository, "stepmark.toml:net", {"PATH": "/bin"}) as side:
        assert side.environ == {"PATH": "/made/bin:/bin"}
        assert side.command[-2:] == ("--python", str(made))


def test_a_commit_without_the_entry_runs_the_candidates(repository: Path) -> None:
    """Whether it has no such file or no such command in it; and its text says so."""
    command_file(repository, old=30.0)
    git(repository, "add", ".")
    git(repository, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "-m", "command")
    command_file(repository, old=60.0, new=90.0)
    for commit, name, timeout_s in (("HEAD", "old", 30.0), ("HEAD", "new", 90.0), ("HEAD~1", "old", 60.0)):
        recipe = parse_recipe([f"git:{commit}"])
        with prepared(recipe, "baseline", repository, f"stepmark.toml:{name}", {}) as side:
            assert side.timeout_s == timeout_s + sides.GRACE_S
            assert side.root != repository
            assert side.text.endswith(", with the candidate's stepmark.toml") == (timeout_s > 30.0)
