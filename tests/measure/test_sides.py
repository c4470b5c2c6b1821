"""SPECs, and the checkouts and environments they need: made as asked, named when they fail, gone afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from perf.errors import MeasureError
from perf.measure import sides
from perf.measure.sides import parse_recipe, prepared


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two commits, in the place of this one."""
    root = tmp_path / "repository"
    root.mkdir()
    (root / "perf").mkdir()
    monkeypatch.setattr(sides, "ROOT", root)
    git(root, "init", "--quiet")
    for content in ("first", "second"):
        (root / "file").write_text(content)
        git(root, "add", ".")
        git(root, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "-m", content)
    return root


def git(root: Path, *arguments: str) -> str:
    """Run git and return what it printed."""
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


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
        (["HEAD"], "'HEAD': each of self, baseline:"),
        (["git:"], "a revision is needed"),
        (["git:--upload-pack=x"], "a revision is needed"),
        (["pip:--index-url=x"], "no requirement like"),
        (["pip:numpy @ file:///x"], "no requirement like"),
        (["pip:"], "no requirement like"),
        (["env:1A=2"], "no NAME=VALUE"),
        (["env:A"], "no NAME=VALUE"),
        (["python:/nonexistent"], "is no program"),
        (["baseline:x"], "takes no value"),
        (["git:HEAD", "git:HEAD~1"], "at most once"),
        (["git:HEAD", "self"], "git and self exclude"),
        (["git:HEAD", "baseline:"], "git and baseline exclude"),
    ],
)
def test_what_is_no_spec_is_refused(parts: list[str], problem: str) -> None:
    """The part that is not understood is named, and what is needed."""
    with pytest.raises(ValueError, match=problem):
        parse_recipe(parts)


def test_a_commit_is_checked_out_and_gone_afterwards(repository: Path) -> None:
    """The working tree and the list of worktrees are as before, also after an error inside."""
    with prepared(parse_recipe(["git:HEAD~1", "env:A=1"]), "baseline", {"B": "2"}) as side:
        assert (side.root / "file").read_text() == "first"
        assert side.environ["A"] == "1"
        assert side.environ["B"] == "2"
        assert side.environ["PYTHONPATH"] == str(side.root)
        assert git(repository, "rev-parse", "--short", "HEAD~1").strip() in side.text
    assert not side.root.exists()

    def interrupted() -> None:
        with prepared(parse_recipe(["git:HEAD"]), "baseline", {}):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert (repository / "file").read_text() == "second"


def test_a_commit_that_is_not_there_names_the_side(repository: Path) -> None:
    """The error says which side, which revision, and leaves nothing behind."""
    with (
        pytest.raises(MeasureError, match=r"candidate side \(git:nonesuch\): found no commit 'nonesuch' here"),
        prepared(parse_recipe(["git:nonesuch"]), "candidate", {}),
    ):
        pass
    assert len(git(repository, "worktree", "list").splitlines()) == 1


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
        with prepared(parse_recipe([f"pip:stepmarkprobe=={version}"]), "candidate", os.environ) as side:
            code = "import stepmarkprobe, numpy; print(stepmarkprobe.VERSION, numpy.__version__)"
            command = [side.command[0], "-c", code]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    numpy = versions("1.0")[1]
    assert versions("2.0") == ["2.0", numpy]
    (tmp_path / "stepmarkprobe-1.0-py3-none-any.whl").unlink()  # it must come from the cache
    assert versions("1.0") == ["1.0", numpy]


def test_packages_that_cannot_be_installed_name_the_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error ends with what pip said last, and the next attempt starts over."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = parse_recipe(["pip:stepmarkprobe==1.0"])
    with pytest.raises(MeasureError, match=r"candidate side \(pip:stepmarkprobe==1.0\).*No matching distribution"):
        prepared(recipe, "candidate", os.environ).__enter__()
    wheel(tmp_path, "1.0")
    (folder,) = (tmp_path / "cache" / "stepmark" / "environments").glob("*/")
    (folder / "left behind").touch()
    with prepared(recipe, "candidate", os.environ) as side:
        assert Path(side.command[0]).parents[1] == folder
    assert not (folder / "left behind").exists()
