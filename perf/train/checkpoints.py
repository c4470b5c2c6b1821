"""The checkpoints of a run: written whole or not at all, verified before use, kept, set aside when damaged, put away.

A checkpoint is one safetensors file, ``step-00000100``, from which nothing is ever executed. Its metadata has the step,
the data position, the configuration that wrote it, and a digest that reveals damage. It is written under another name
and renamed, so a file of that name is complete; one that is damaged later is set aside, not deleted.
"""

import errno
import fcntl
import hashlib
import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from torch import Tensor

from perf.errors import CheckpointError

FORMAT = "stepmark-checkpoint"
VERSION = 2
EDITED = "it was edited: restore it, or start over with --fresh"
_NAME = re.compile(r"step-(\d{8}|[1-9]\d{8,17})", re.ASCII)
_PARTIAL = re.compile(rf"\.{_NAME.pattern}\.partial", re.ASCII)
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_NO_DIGEST = "0" * 64  # stands in the digest's place while the file's is computed
_HEAD_BYTES = 2**20  # enough for the header, in which the digest stands: the longest one here has 120 KiB
# What reading a file reports that is missing, in the wrong place, linked to itself, or on a bad sector. Anything else
# (no permission, too many open files) says nothing about the checkpoint.
_UNREADABLE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO}


class Facts(Struct, frozen=True, kw_only=True):
    """What a checkpoint says about itself; the values in the two dicts are plain JSON."""

    global_step: int  # optimizer steps completed when it was written
    data_position: int  # samples drawn from the source by then; the number of the next one
    identity: dict[str, Any]  # what a run must have to resume from it
    environment: dict[str, Any]  # what wrote it and may be another


class Checkpoint(Struct, frozen=True, kw_only=True):
    """A checkpoint whose digest has been verified."""

    path: Path  # its file, with the tensors
    facts: Facts


class _DamagedError(Exception):
    """A checkpoint that is not what was written."""


def _write(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
    """Write a file and its digest, and wait until it is on disk. Raises CheckpointError, OSError: that failed."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(tensors, path, {**metadata, "sha256": _NO_DIGEST})
    except SafetensorError as error:  # what a full disk looks like through this library
        raise CheckpointError(f"{path}: not written ({error}); make room or name another --model-dir") from error
    place, digest = _digest(path)
    assert place is not None
    with path.open("r+b") as file:
        file.seek(place.start(1))
        file.write(digest)
    _fsync(path)


def _digest(path: Path) -> tuple[re.Match[bytes] | None, bytes]:
    """Return the digest in a file, and what it should be: the file's SHA-256, computed with zeros in its place."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        digest = hashlib.sha256(_DIGEST.sub(f'"sha256":"{_NO_DIGEST}"'.encode(), head, count=1))
        hashlib.file_digest(file, lambda: digest)
    return _DIGEST.search(head), digest.hexdigest().encode()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, step: int) -> Checkpoint:
    """Return a checkpoint, which its name says is of `step`; its tensors are not read yet.

    Raises:
        _DamagedError: it is not what was written.
        CheckpointError: it is whole, and of another project or format version.
    """
    is_former = (path / "checkpoint.json").is_file()  # version 1 wrote a folder
    metadata = {"format": FORMAT, "version": "1"} if is_former else _verified_metadata(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not written by this project; name another --model-dir")
    if metadata.get("version") != str(VERSION):
        raise CheckpointError(
            f"{path}: format version {metadata.get('version')}, this stepmark reads version {VERSION}; "
            "use the stepmark that wrote it, or start over with --fresh"
        )
    try:
        facts = msgspec.json.decode(metadata.get("facts", ""), type=Facts)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}; {EDITED}") from None
    if facts.global_step != step:
        raise _DamagedError(f"is of step {facts.global_step}, so the file was renamed")
    return Checkpoint(path=path, facts=facts)


def _verified_metadata(path: Path) -> dict[str, str]:
    """Return a file's metadata. Raises _DamagedError: it is no safetensors file, or one of ours that was altered."""
    try:
        found, digest = _digest(path)
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except SafetensorError:
        raise _DamagedError("is not a whole safetensors file") from None
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        raise _DamagedError(f"cannot be read ({error.strerror})") from None
    # One flipped bit cannot hide both that a digest is there and that the format is ours.
    is_ours = metadata.get("format") == FORMAT or "sha256" in metadata
    if is_ours and (found is None or found[1] != digest):
        raise _DamagedError("does not match its digest (altered)")
    return metadata


class CheckpointStore:
    """The checkpoints of one run, in one directory."""

    def __init__(self, directory: Path, *, keep_last: int) -> None:
        self.directory = directory  # the run's model directory; `claim` makes it
        self.keep_last = keep_last  # how many of the newest to keep after a save; with 0 none is written or deleted
        self._claimed: int | None = None  # descriptor of the directory while it is held

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints in the directory, ascending, unverified."""
        if not self.directory.is_dir():
            return []
        matches = (_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def path(self, global_step: int) -> Path:
        """Return where the checkpoint of a step is or would be."""
        return self.directory / f"step-{global_step:08d}"

    def save(self, facts: Facts, tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint atomically, and delete those that `keep_last` no longer covers.

        Raises:
            CheckpointError, OSError: the step has a checkpoint already, or it could not be written, or the directory
                was deleted or replaced; the checkpoints there before are untouched.
        """
        if self.keep_last == 0:
            return
        self._require_same_directory(facts.global_step)
        final = self.path(facts.global_step)
        if final.exists():
            raise CheckpointError(f"{final}: exists already, and is not overwritten; name another --model-dir")
        metadata = {"format": FORMAT, "version": str(VERSION), "facts": msgspec.json.encode(facts).decode()}
        partial = self.directory / f".{final.name}.partial"
        try:
            _write(partial, metadata, tensors)
            partial.rename(final)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _fsync(self.directory)
        for step in self.steps()[: -self.keep_last]:
            with suppress(OSError):  # such as a folder of that name
                self.path(step).unlink()

    def _require_same_directory(self, global_step: int) -> None:
        """Raise if the directory is gone, or is not the one that is held: the lock does not cover what replaced it."""
        with suppress(FileNotFoundError):
            here = self.directory.stat()
            if self._claimed is None or os.path.samestat(here, os.fstat(self._claimed)):
                return
        raise CheckpointError(
            f"{self.directory}: was deleted or replaced during the run, so step {global_step} was not saved; "
            "leave it in place while a run uses it, and start again"
        )

    def newest_valid(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest checkpoint that verifies, and a note for each newer one, which is damaged.

        That is renamed to ``damaged-step-...``: it can be inspected, but is not used as a checkpoint again.

        Raises:
            CheckpointError: none verifies though there are some, or one is whole but in a format unknown here, or one
                is damaged and another run is using the directory.
        """
        damage: dict[Path, str] = {}
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                checkpoint = _read(path, step)
            except _DamagedError as error:
                damage[path] = str(error)
                continue
            if not damage:
                return checkpoint, []
            with self.claim() if self._claimed is None else nullcontext():
                return checkpoint, [
                    f"{path}: {why}; set aside as {path.rename(_first_free(f'{path.parent}/damaged-{path.name}'))}"
                    for path, why in damage.items()
                ]
        if damage:
            raise CheckpointError(
                "; ".join(f"{path}: {why}" for path, why in damage.items())
                + "; no checkpoint here is whole: restore one, or start over with --fresh"
            )
        return None, []

    def put_away(self) -> Path | None:
        """Move all checkpoints, whole or damaged, to a new folder, ``previous-N``; return it, or None without any."""
        known = re.compile(rf"{_NAME.pattern}|damaged-{_NAME.pattern}-\d+", re.ASCII)
        # The newest first: cut short, this leaves older checkpoints behind, never a newer one without the older ones.
        ours = sorted((path for path in self.directory.iterdir() if known.fullmatch(path.name)), reverse=True)
        if not ours:
            return None
        target = _first_free(f"{self.directory}/previous")
        target.mkdir()
        for path in ours:
            path.rename(target / path.name)
        return target

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Make the directory if needed, hold it for one run, and delete what interrupted saves left in it.

        Raises:
            CheckpointError: another run holds it.
            OSError: it cannot be made or written to; told now, not after a training.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=self.directory).close()
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however it ends
            except BlockingIOError:
                raise CheckpointError(
                    f"{self.directory}: another run is using it; wait for its end, or give each its own --model-dir"
                ) from None
            for path in self.directory.iterdir():
                if _PARTIAL.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            self._claimed = descriptor
            yield
        finally:
            self._claimed = None
            os.close(descriptor)


def _first_free(path: str) -> Path:
    return next(Path(f"{path}-{n}") for n in itertools.count(1) if not os.path.lexists(f"{path}-{n}"))
