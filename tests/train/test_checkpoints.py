"""Checkpoints are whole or absent; damage is told and set aside; nothing in them is executed."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from safetensors import SafetensorError, safe_open

from perf.errors import CheckpointError
from perf.train import checkpoints
from perf.train.checkpoints import Checkpoint, CheckpointStore, Facts


def facts_of(step: int) -> Facts:
    """Return what the checkpoint of a step says of itself in these tests."""
    return Facts(global_step=step, data_position=step * 8, identity={"seed": step}, environment={})


def save(store: CheckpointStore, step: int) -> None:
    """Save a checkpoint whose content follows from its step."""
    store.save(facts_of(step), {"w": torch.full((3, 2), float(step)), "n": torch.tensor(step)})


def newest(store: CheckpointStore) -> tuple[Checkpoint, list[str]]:
    """Return the newest whole checkpoint, of which there is one, and the notes."""
    found, notes = store.newest_valid()
    assert found is not None
    return found, notes


class _Crash(BaseException):
    """Stands for the process being killed: no handler may count on catching it."""


def crash_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the `call`-th system call that commits something (fsync, rename, unlink) kill the process instead."""
    count = 0

    def dying(real: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                raise _Crash
            return real(*args, **kwargs)

        return run

    real_unlink = Path.unlink

    def unlink(path: Path, **kwargs: Any) -> None:
        # What a killed process leaves behind stays: cleaning up is what it no longer does.
        if not path.name.endswith(".partial"):
            dying(real_unlink)(path, **kwargs)

    monkeypatch.setattr(checkpoints, "_fsync", dying(checkpoints._fsync))
    monkeypatch.setattr(Path, "rename", dying(Path.rename))
    monkeypatch.setattr(Path, "unlink", unlink)


def damage(path: Path, kind: str) -> None:
    """Damage one checkpoint in one of the ways that files get damaged."""
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[:-3])
    elif kind == "truncated in its header":
        path.write_bytes(content[:100])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "zeros":
        path.write_bytes(bytes(len(content)))
    elif kind == "longer":
        path.write_bytes(content + b"\0")
    elif kind == "flipped bit":
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    elif kind == "edited":
        path.write_bytes(re.sub(rb"(?<=data_position..:)\d", b"0", content))
    elif kind == "not safetensors":
        path.write_bytes(b"\xff\xfe\x00" * 100)
    else:
        path.unlink()
        if kind == "a folder":
            path.mkdir()
        else:
            assert kind == "linked to itself"
            path.symlink_to(path.name)


DAMAGE = (
    "truncated",
    "truncated in its header",
    "empty",
    "zeros",
    "longer",
    "flipped bit",
    "edited",
    "not safetensors",
    "a folder",
    "linked to itself",
)
FILE_DAMAGE = [kind for kind in DAMAGE if kind != "a folder"]  # a folder is set aside, but never deleted


class CheckpointLife(RuleBasedStateMachine):
    """Save, crash, damage and resume in any order, against a model: a dict from step to whether it is whole."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.model: dict[int, bool] = {}
        self.step = 0

    def teardown(self) -> None:
        """Delete the directory."""
        shutil.rmtree(self.directory)

    @initialize(keep_last=st.sampled_from([0, 1, 2, 3]))
    def begin(self, keep_last: int) -> None:
        """Choose how many to keep."""
        self.keep_last = keep_last
        self.store = CheckpointStore(self.directory / "run", keep_last=keep_last)
        self.store.directory.mkdir()

    @rule(steps=st.integers(1, 3))
    def train_and_save(self, steps: int) -> None:
        """Make some steps and save: the newest `keep_last` remain, and nothing changes when that is 0."""
        self.step += steps
        save(self.store, self.step)
        if self.keep_last == 0:
            return
        self.model[self.step] = True
        self.model = dict(sorted(self.model.items())[-self.keep_last :])

    @precondition(lambda self: self.keep_last > 0)
    @rule(steps=st.integers(1, 3), call=st.integers(1, 6))
    def crash_while_saving(self, steps: int, call: int) -> None:
        """Die anywhere in a save, retention included: the new checkpoint is whole or absent, no other is lost.

        Resume.
        """
        crashed = False
        with pytest.MonkeyPatch.context() as monkeypatch:
            crash_at(call, monkeypatch)
            try:
                save(self.store, self.step + steps)
            except _Crash:
                crashed = True
        assert crashed or call > 3
        if call >= 3:  # call 2 is the rename that makes it count; from 4 on, each call retires one
            self.model[self.step + steps] = True
            surplus = sorted(self.model)[: -self.keep_last]
            for step in surplus[: call - 4] if call > 4 else []:
                del self.model[step]
            if not crashed:
                self.model = dict(sorted(self.model.items())[-self.keep_last :])
        self.resume()

    @precondition(lambda self: len(self.model) > 1)
    @rule(kind=st.sampled_from(FILE_DAMAGE), index=st.integers(0, 10))
    def damage_one(self, kind: str, index: int) -> None:
        """Damage any checkpoint, as long as another whole one remains."""
        step = sorted(self.model)[index % len(self.model)]
        if any(whole for other, whole in self.model.items() if other != step) and self.model[step]:
            damage(self.store.path(step), kind)
            self.model[step] = False

    @rule()
    def resume(self) -> None:
        """The newest whole checkpoint wins; damaged ones above it are told, set aside and gone from the model."""
        self.store = CheckpointStore(self.directory / "run", keep_last=self.keep_last)
        found, notes = self.store.newest_valid()
        if self.store.directory.exists():
            with self.store.claim():
                assert not list(self.store.directory.glob(".*"))
        whole = [step for step, is_whole in self.model.items() if is_whole]
        if not whole:
            assert (found, notes) == (None, [])
            self.step = 0
            return
        assert found is not None
        assert found.facts == facts_of(max(whole))
        tensors = safetensors.torch.load_file(found.path)
        assert torch.equal(tensors["w"], torch.full((3, 2), float(max(whole))))
        assert tensors["n"].item() == max(whole)
        newer = [step for step in self.model if step > max(whole)]
        assert len(notes) == len(newer)
        for step in newer:
            assert any(self.store.path(step).name in note and "set aside as" in note for note in notes)
            del self.model[step]
        self.step = max(whole)

    @invariant()
    def the_directory_is_the_model(self) -> None:
        """The checkpoints on disk are exactly those of the model."""
        if hasattr(self, "store"):
            assert self.store.steps() == sorted(self.model)


TestCheckpointLife = CheckpointLife.TestCase
TestCheckpointLife.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_apart_and_nothing_is_lost(kind: str, tmp_path: Path) -> None:
    """With a whole checkpoint below, the damaged one is set aside with a reason; alone, it stops the run."""
    store = CheckpointStore(tmp_path, keep_last=5)
    save(store, 10)
    save(store, 20)
    damage(store.path(20), kind)
    left = store.path(20).lstat()
    found, (note,) = newest(store)
    assert found.facts.global_step == 10
    assert note.startswith(f"{store.path(20)}: ")
    assert os.path.samestat(left, (tmp_path / "damaged-step-00000020-1").lstat())
    damage(store.path(10), kind)
    with pytest.raises(CheckpointError, match=r"step-00000010: .*no checkpoint here is whole.*--fresh"):
        store.newest_valid()
    assert os.path.lexists(store.path(10)), "the last one is not even renamed"


def test_every_flipped_bit_is_damage(tmp_path: Path) -> None:
    """No bit of a checkpoint makes it foreign or passes unseen.

    The older one is used, or the damage is named.
    """
    store, alone = (CheckpointStore(tmp_path / folder, keep_last=5) for folder in ("store", "alone"))
    for each in (store, alone):
        each.directory.mkdir()
        save(each, 20)
    save(store, 10)
    content = store.path(20).read_bytes()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        store.path(20).write_bytes(flipped)
        found, (note,) = newest(store)
        assert found.facts.global_step == 10
        assert re.match(f"{store.path(20)}: (does not match its digest|is not a whole safetensors file)", note)
        (store.directory / "damaged-step-00000020-1").rename(store.path(20))
        if bit % 7 == 0:
            alone.path(20).write_bytes(flipped)
            with pytest.raises(CheckpointError, match=r"step-00000020: .*no checkpoint here is whole"):
                alone.newest_valid()
    store.path(20).write_bytes(content)
    found, notes = newest(store)
    assert (found.facts.global_step, notes) == (20, [])


@pytest.mark.parametrize(("number", "is_damage"), [(errno.EIO, True), (errno.EACCES, False), (errno.EMFILE, False)])
def test_what_cannot_be_read_for_now_is_not_damage(
    number: int, is_damage: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector is damage; no permission or too many open files say nothing about a checkpoint, which stays."""
    store = CheckpointStore(tmp_path, keep_last=5)
    save(store, 10)
    save(store, 20)
    real = Path.open

    def failing(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == store.path(20):
            raise OSError(number, os.strerror(number))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", failing)
    if is_damage:
        found, (note,) = newest(store)
        assert found.facts.global_step == 10
        assert f"step-00000020: cannot be read ({os.strerror(number)})" in note
        return
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        store.newest_valid()
    assert store.steps() == [10, 20]


def test_a_renamed_checkpoint_is_not_believed(tmp_path: Path) -> None:
    """A file that claims another step than its content is damage, though its digest matches."""
    store = CheckpointStore(tmp_path, keep_last=5)
    save(store, 10)
    save(store, 20)
    store.path(20).rename(store.path(90))
    found, (note,) = newest(store)
    assert found.facts.global_step == 10
    assert "is of step 20, so the file was renamed" in note


def test_a_directory_that_takes_no_files_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Existing is not enough, a file must be possible in it; permissions do not stop root, so the failure is made."""

    def read_only(**arguments: Any) -> None:
        raise OSError(30, "Read-only file system", str(arguments["dir"]))

    monkeypatch.setattr(checkpoints.tempfile, "TemporaryFile", read_only)
    with (
        pytest.raises(OSError, match="Read-only file system"),
        CheckpointStore(tmp_path, keep_last=1).claim(),
    ):
        pass


def test_a_second_damaged_checkpoint_of_a_step_does_not_replace_the_first(tmp_path: Path) -> None:
    """What was set aside stays set aside."""
    store = CheckpointStore(tmp_path, keep_last=5)
    save(store, 10)
    for _ in range(3):
        save(store, 20)
        damage(store.path(20), "truncated")
        store.newest_valid()
    assert sorted(path.name for path in tmp_path.glob("damaged-*")) == [
        "damaged-step-00000020-1",
        "damaged-step-00000020-2",
        "damaged-step-00000020-3",
    ]


def rewrite(path: Path, **change: str) -> None:
    """Change the metadata of a checkpoint as somebody who knows its digest would."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    checkpoints._write(path, {**metadata, **change}, safetensors.torch.load_file(path))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("another format", "not written by this project"),
        ("another version", "format version 3, this stepmark reads version 2; .*--fresh"),
        ("version 1", "format version 1, this stepmark reads version 2; .*--fresh"),
        ("foreign", "not written by this project"),
        ("foreign with metadata", "not written by this project"),
        ("no facts", "truncated; it was edited"),
        ("facts missing", "missing required field `global_step`; it was edited"),
        ("facts nested beyond reason", "recursion.*; it was edited"),
    ],
)
def test_what_is_not_ours_or_from_another_version_is_refused(kind: str, message: str, tmp_path: Path) -> None:
    """A foreign file and another format stop the run, each with its own message; nothing is moved but by --fresh."""
    store = CheckpointStore(tmp_path, keep_last=2)
    save(store, 10)
    save(store, 20)
    path = store.path(20)
    if kind == "another format":
        rewrite(path, format="something else")
    elif kind == "another version":
        rewrite(path, version="3")
    elif kind == "no facts":
        rewrite(path, facts="")
    elif kind == "facts nested beyond reason":
        rewrite(path, facts='{"identity": {"x": ' + "[" * 100_000)
    elif kind == "facts missing":
        rewrite(path, facts="{}")
    elif kind == "version 1":
        path.unlink()
        path.mkdir()
        (path / "checkpoint.json").write_text("{}")
    else:
        metadata = {"format": "pt"} if kind == "foreign with metadata" else None
        safetensors.torch.save_file({"w": torch.ones(2)}, path, metadata)
    with pytest.raises(CheckpointError, match=f"step-00000020: .*{message}"):
        store.newest_valid()
    assert store.steps() == [10, 20]
    assert store.put_away() is not None
    assert store.steps() == []


@pytest.mark.parametrize("name", ["format", "version", "global_step", "identity", "sha256"])
def test_a_letter_altered_anywhere_is_damage(name: str, tmp_path: Path) -> None:
    """Also in the fields that tell a format: the digest is checked before they are believed."""
    store = CheckpointStore(tmp_path, keep_last=2)
    save(store, 10)
    save(store, 20)
    path = store.path(20)
    content = path.read_bytes()
    assert content.count(name.encode()) == 1
    path.write_bytes(content.replace(name.encode(), name.encode().upper()))
    found, (note,) = newest(store)
    assert found.facts.global_step == 10
    assert "does not match its digest" in note


def test_odd_entries_do_not_hide_a_whole_checkpoint(tmp_path: Path) -> None:
    """An empty file and a folder in a checkpoint's place, and names that are not ours."""
    store = CheckpointStore(tmp_path, keep_last=9)
    save(store, 10)
    (tmp_path / "step-00000020").touch()
    (tmp_path / "step-00000030").mkdir()
    for name in ("step-0000000060", "step-\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668", "step-7", "notes.txt"):
        (tmp_path / name).mkdir()
    found, notes = newest(store)
    assert (found.facts.global_step, len(notes)) == (10, 2)


def test_a_folder_in_the_place_of_an_old_checkpoint_stays(tmp_path: Path) -> None:
    """Retention deletes files of its own, and goes on where there is something else."""
    store = CheckpointStore(tmp_path, keep_last=1)
    (tmp_path / "step-00000010").mkdir()
    save(store, 20)
    save(store, 30)
    assert store.steps() == [10, 30]


def test_a_pickle_in_a_checkpoints_place_is_never_executed(tmp_path: Path) -> None:
    """A hostile file is refused as what it is not, and its code does not run."""
    marker = tmp_path / "executed"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return marker.touch, ()

    store = CheckpointStore(tmp_path, keep_last=2)
    store.path(10).write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(CheckpointError, match="step-00000010: is not a whole safetensors file"):
        store.newest_valid()
    assert not marker.exists()


def test_a_failed_save_leaves_the_earlier_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is an error; what was there is there, and nothing half-written is."""
    store = CheckpointStore(tmp_path, keep_last=1)
    save(store, 10)

    def full(*args: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints.safetensors.torch, "save_file", full)
    with pytest.raises(CheckpointError, match=r"not written .*No space left"):
        save(store, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_a_directory_that_vanishes_is_not_made_again(replaced: bool, tmp_path: Path) -> None:
    """The lock is on the directory: one of the same name is not held, and may be another run's."""
    store = CheckpointStore(tmp_path / "run", keep_last=1)
    store.directory.mkdir()
    with store.claim():
        save(store, 10)
        store.directory.rename(tmp_path / "moved")
        if replaced:
            other = CheckpointStore(store.directory, keep_last=1)
            other.directory.mkdir()
            save(other, 5)
        with pytest.raises(
            CheckpointError, match=r"run: was deleted or replaced during the run, so step 20 was not saved"
        ):
            save(store, 20)
    assert CheckpointStore(tmp_path / "moved", keep_last=1).steps() == [10]
    assert store.steps() == ([5] if replaced else [])
    assert store.directory.exists() == replaced


def test_a_step_is_not_written_twice(tmp_path: Path) -> None:
    """A step that has a checkpoint is not overwritten."""
    save(CheckpointStore(tmp_path, keep_last=2), 10)
    with pytest.raises(CheckpointError, match="exists already, and is not overwritten"):
        save(CheckpointStore(tmp_path, keep_last=2), 10)


def test_a_directory_is_for_one_run_at_a_time(tmp_path: Path) -> None:
    """The second is told at once, a save in progress is left alone, and the end of the first frees the directory."""
    store = CheckpointStore(tmp_path, keep_last=2)
    with store.claim():
        (tmp_path / ".step-00000010.partial").touch()
        (tmp_path / ".notes.partial").touch()
        with (
            pytest.raises(CheckpointError, match="another run is using it"),
            CheckpointStore(tmp_path, keep_last=2).claim(),
        ):
            pass
        store.newest_valid()
        assert (tmp_path / ".step-00000010.partial").exists()
    with store.claim():
        assert [path.name for path in tmp_path.iterdir()] == [".notes.partial"]


def test_putting_away_replaces_nothing_and_moves_only_checkpoints(tmp_path: Path) -> None:
    """Every fresh start has a folder of its own for what was there, also behind a link; other files stay."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    store = CheckpointStore(tmp_path / "run", keep_last=2)
    (tmp_path / "run" / "train.log").touch()
    assert store.put_away() is None
    for number, step in enumerate((10, 20), start=1):
        save(store, step)
        save(store, step + 1)
        damage(store.path(step + 1), "truncated")
        store.newest_valid()
        assert store.put_away() == tmp_path / "run" / f"previous-{number}"
        assert store.steps() == []
    assert store.put_away() is None
    assert sorted(str(path.relative_to(tmp_path / "disk")) for path in (tmp_path / "disk").glob("*/*")) == [
        "previous-1/damaged-step-00000011-1",
        "previous-1/step-00000010",
        "previous-2/damaged-step-00000021-1",
        "previous-2/step-00000020",
    ]
    assert (tmp_path / "disk" / "train.log").exists()
