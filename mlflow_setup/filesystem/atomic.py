"""Atomic writes: readers see a file or folder complete or not at all. Deferred syncs to disk."""

import contextlib
import errno
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.modes import OWNERS
from mlflow_setup.filesystem.storage import TEMPORARY, storage_of

_logger = logging.getLogger(__name__)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomic(
    path: Path, content: bytes | str, mask: int = OWNERS, *, publish: bool = True
) -> None:
    """Write a file atomically; it is on disk when the call returns.

    Args:
        publish: also upload the file, if it is in the working copy of an object store.
    """
    with atomic_file(path, mask, publish=publish) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def write_whole(path: Path, content: str) -> None:
    """Write a file atomically, without waiting for the disk: a crash of the machine soon after may
    lose it, or leave it empty. `DeferredSync` makes that time short.
    """
    with atomic_file(path, is_synced=False) as stream:
        stream.write(content.encode())


@contextlib.contextmanager
def atomic_file(
    path: Path, mask: int = OWNERS, *, is_synced: bool = True, publish: bool = True
) -> Iterator[BinaryIO]:
    """A stream whose content becomes the file `path` if the block ends without an error; otherwise
    `path` is left as it was.

    Args:
        mask: see `mlflow_setup.filesystem.modes`.
        is_synced: wait until the content is on disk.
        publish: as for `write_atomic`.
    """
    _make_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(handle, 0o666 & ~mask)
            yield stream
            stream.flush()
            if is_synced:
                os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    if is_synced:
        sync_folder(path.parent)
    if publish:
        storage_of(path).publish(path)


@contextlib.contextmanager
def atomic_folder(path: Path, mask: int = OWNERS) -> Iterator[Path]:
    """A temporary folder that becomes `path` if the block ends without an error.

    Args:
        mask: for the folder and everything in it, whatever their modes were; see
            `mlflow_setup.filesystem.modes`.

    Raises:
        FileExistsError: `path` exists already.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists")
    _make_folder(path.parent)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if not file.is_symlink():
                file.chmod((0o777 if file.is_dir() else 0o666) & ~mask)
            sync_folder(file) if file.is_dir() else sync_file(file)
        temporary.chmod(0o777 & ~mask)
        sync_folder(temporary)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)
    storage_of(path).publish(path)


class DeferredSync:
    """Puts files on disk, all that have come together at once. Used in a block, at whose end all
    is on disk that was added.

    For records that can be made anew: until they are on disk they outlive their process, whatever
    ends it, but not their machine.
    """

    def __init__(self) -> None:
        self._waiting: set[Path] = set()
        self._has_ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="deferred-sync", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        self._thread.join()

    def add(self, path: Path) -> None:
        """A file that has been written whole. Returns at once."""
        with self._changed:
            self._waiting.add(path)
            self._changed.notify_all()

    def _run(self) -> None:
        while paths := self._next():
            for sync, places in ((sync_file, paths), (sync_folder, {p.parent for p in paths})):
                for place in places:
                    try:
                        sync(place)
                    except FileNotFoundError:  # written, and removed with its folder
                        continue
                    except OSError as error:  # what is written next will say so
                        _logger.warning("%s is not on disk: %s", place, error)

    def _next(self) -> set[Path]:
        """All that wait; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._has_ended)
            paths, self._waiting = self._waiting, set()
            return paths


@contextlib.contextmanager
def must_write(place: Path) -> Iterator[None]:
    """Turn an OSError in the block, which writes before any work begins, into a ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{place}: cannot be written: {error.strerror or error}",
            fix="make room, or name a storage folder that can be written to",
        ) from None


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that the disk or the quota is full.

    Libraries not written in Python raise errors of their own, which only say so in their message.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        if any(os.strerror(number) in str(error) for number in _DISK_FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def remove_folder(folder: Path) -> None:
    """Delete a folder atomically, if it exists. Files that cannot be deleted stay behind under a
    temporary name."""
    if folder.exists():
        trash = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder.parent))
        folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)
    storage_of(folder).withdraw(folder)


def remove_file(path: Path) -> None:
    """Delete a file, if it exists, here and in the object store that it was published to."""
    path.unlink(missing_ok=True)
    storage_of(path).withdraw(path)


def sync_file(path: Path) -> None:
    """Wait until a file's content is on disk (fsync)."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on disk (fsync)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make the folder and its missing parents, and wait until their entries are on disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)
