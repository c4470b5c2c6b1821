"""One checkpoint: its tensors and its facts, written with digests, verified before use, never executed.

A checkpoint is a folder with the tensors (``state.safetensors``) and ``checkpoint.json``: the step, the data position,
the configuration that wrote it, and the digests that reveal damage.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from perf.errors import CheckpointError

FORMAT = "stepmark-checkpoint"
VERSION = 1
STATE_FILE = "state.safetensors"
META_FILE = "checkpoint.json"
EDITED = "it was edited: restore it, or start over with --fresh"
# What reading a file reports that is missing, in the wrong place, linked to itself, or on a bad sector. Anything else
# (no permission, too many open files) says nothing about the checkpoint.
_UNREADABLE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO}


class Config(TypedDict):
    """What wrote a checkpoint, as plain JSON values."""

    identity: dict[str, Any]  # what a run must have to resume from it
    environment: dict[str, Any]  # what may be another


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint whose digests have been verified."""

    path: Path  # its folder
    global_step: int  # optimizer steps completed when it was written
    data_position: int  # samples drawn from the source by then; the number of the next one
    config: Config  # what wrote it
    state_sha256: str  # the digest of its tensors' file

    def tensors(self) -> dict[str, Tensor]:
        """Read the tensors into memory. Raises CheckpointError: the file is not in safetensors format."""
        try:
            return safetensors.torch.load_file(self.path / STATE_FILE)
        except SafetensorError as error:
            raise CheckpointError(
                f"{self.path / STATE_FILE}: not a safetensors file ({error}); restore it or start over with --fresh"
            ) from error


class DamagedError(Exception):
    """A checkpoint that is not what was written."""


def write_checkpoint(
    folder: Path, *, global_step: int, data_position: int, config: Config, tensors: dict[str, Tensor]
) -> None:
    """Write the files of a checkpoint into an empty folder, and wait until they are on disk.

    Raises:
        CheckpointError, OSError: they could not be written.
    """
    state = folder / STATE_FILE
    try:
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, state)
    except SafetensorError as error:  # what a full disk looks like through this library
        raise CheckpointError(
            f"{state}: could not be written ({error}); make room or name another --model-dir"
        ) from error
    meta: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "global_step": global_step,
        "data_position": data_position,
        "config": config,
        "state_sha256": _file_sha256(state),
    }
    meta["sha256"] = _json_sha256(meta)
    (folder / META_FILE).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    for path in (state, folder / META_FILE, folder):
        fsync(path)


def read_checkpoint(path: Path, step: int) -> Checkpoint:
    """Return the checkpoint in a folder, which its name says is of `step`; its tensors are not read yet.

    Raises:
        DamagedError: it is not what was written.
        CheckpointError: it is whole, and of another project or format version.
    """
    meta_path = path / META_FILE
    with _unreadable_is_damage(META_FILE):
        content = meta_path.read_bytes()
    try:
        value = json.loads(content)
        found: dict[str, Any] = value if isinstance(value, dict) else {}
        digest = found.pop("sha256", None)
        matches = digest == _json_sha256(found)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested beyond reason
        raise DamagedError(f"{META_FILE} is not readable as JSON") from None
    is_ours = found.get("format") == FORMAT
    # One flipped bit cannot hide both that a digest is there and that the format is ours.
    if not matches and (is_ours or digest is not None):
        raise DamagedError(f"{META_FILE} does not match its digest")
    if not is_ours:
        raise CheckpointError(f"{meta_path}: not written by this project; name another --model-dir")
    if found.get("version") != VERSION:
        raise CheckpointError(
            f"{meta_path}: format version {found.get('version')!r}, this stepmark reads version {VERSION}; "
            "use the stepmark that wrote it, or start over with --fresh"
        )
    try:
        checkpoint = msgspec.convert({**found, "path": path}, Checkpoint)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the second of a lone surrogate
        raise CheckpointError(f"{meta_path}: {error}; {EDITED}") from None
    if checkpoint.global_step != step:
        raise DamagedError(f"{META_FILE} is of step {checkpoint.global_step}, so the folder was renamed")
    with _unreadable_is_damage(STATE_FILE):
        state_digest = _file_sha256(path / STATE_FILE)
    if state_digest != checkpoint.state_sha256:
        raise DamagedError(f"{STATE_FILE} does not match its digest (truncated or altered)")
    return checkpoint


@contextmanager
def _unreadable_is_damage(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        raise DamagedError(f"{name} cannot be read ({error.strerror})") from None


def _json_sha256(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
