"""The checkpoints of a run: written whole or not at all, kept, set aside when damaged, put away.

A checkpoint is written under another name and renamed, so a folder called ``step-00000100`` is complete; one that is
damaged later is set aside, not deleted.
"""

import fcntl
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor

from perf.errors import CheckpointError
from perf.train.checkpoint_files import Checkpoint, Config, DamagedError, fsync, read_checkpoint, write_checkpoint

_NAME = re.compile(r"step-(\d{8}|[1-9]\d{8,17})", re.ASCII)
_PARTIAL = re.compile(rf"\.partial-(?:deleted-)?{_NAME.pattern}", re.ASCII)


class CheckpointStore:
    """The checkpoints of one run, in one directory.

    Args:
        directory: the run's model directory; `require_usable` makes it.
        keep_last: how many of the newest to keep after a save; with 0 none is written, and none deleted.
    """

    def __init__(self, directory: Path, *, keep_last: int) -> None:
        self.directory = directory
        self.keep_last = keep_last
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

    def save(self, *, global_step: int, data_position: int, config: Config, tensors: dict[str, Tensor]) -> Path | None:
        """Write a checkpoint atomically, delete those that `keep_last` no longer covers, and return its folder, if any.

        Raises:
            CheckpointError, OSError: the step has a checkpoint already, or it could not be written, or the directory
                was deleted or replaced; the checkpoints there before are untouched.
        """
        if self.keep_last == 0:
            return None
        self._require_same_directory(global_step)
        final = self.path(global_step)
        partial = self.directory / f".partial-{final.name}"
        partial.mkdir()
        try:
            write_checkpoint(
                partial, global_step=global_step, data_position=data_position, config=config, tensors=tensors
            )
            if final.exists():
                raise CheckpointError(f"{final}: exists already, and is not overwritten; name another --model-dir")
            partial.rename(final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        fsync(self.directory)
        for step in self.steps()[: -self.keep_last]:
            # Renamed first: a deletion cut short must not leave half a checkpoint under a checkpoint's name.
            doomed = self.path(step).rename(self.directory / f".partial-deleted-{self.path(step).name}")
            shutil.rmtree(doomed, ignore_errors=True)
        return final

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
        """Return the newest checkpoint that verifies, and a note for each damaged one that was set aside.

        A damaged checkpoint newer than the one returned is renamed to ``damaged-step-...``, so that it can be
        inspected but is not used as a checkpoint again.

        Raises:
            CheckpointError: no checkpoint verifies though there are some, or one is whole but in a format unknown here,
                or one is damaged and another run is using the directory.
        """
        damage: dict[Path, str] = {}
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                checkpoint = read_checkpoint(path, step)
            except DamagedError as error:
                damage[path] = str(error)
                continue
            if not damage:
                return checkpoint, []
            with self.claim():
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

    def require_usable(self) -> None:
        """Make the directory if needed; raise now what would otherwise end a run after its training.

        Raises:
            CheckpointError: it is a file.
            OSError: it cannot be made or written to.
        """
        if self.directory.exists() and not self.directory.is_dir():
            raise CheckpointError(f"{self.directory}: is a file, and a directory is needed; name another --model-dir")
        self.directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=self.directory).close()

    def put_away(self) -> Path | None:
        """Move all checkpoints, whole or damaged, to ``previous-1``, ``-2``, ... within the directory; replace nothing.

        Returns:
            Where they went, or None when there were none.
        """
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
        """Hold the directory for one run, and delete what interrupted saves left in it.

        Raises:
            CheckpointError: another process holds it.
        """
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however it ends
            except BlockingIOError:
                raise CheckpointError(
                    f"{self.directory}: another run is using it; wait for its end or name another --model-dir"
                ) from None
            for path in self.directory.iterdir():
                if _PARTIAL.fullmatch(path.name):
                    shutil.rmtree(path, ignore_errors=True)
            self._claimed = descriptor
            yield
        finally:
            self._claimed = None
            os.close(descriptor)


def _first_free(path: str) -> Path:
    """Return the first of `path`-1, `path`-2, ... that does not exist."""
    return next(Path(f"{path}-{n}") for n in itertools.count(1) if not os.path.lexists(f"{path}-{n}"))
