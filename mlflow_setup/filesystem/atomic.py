"""Files and folders that readers see whole or not at all."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.modes import OWNERS
from mlflow_setup.filesystem.storage import TEMPORARY, storage_of

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def write_atomic(
    path: Path, content: bytes | str, mask: int = OWNERS, *, publish: bool = True
) -> None:
    """Write a file that readers see whole or not at all, on disk when the call returns.

    Args:
        publish: others than this machine's processes are to see it as well.
    """
    with atomic_file(path, mask, publish=publish) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def write_whole(path: Path, content: str) -> None:
    """Write a file that readers see whole or not at all, and that is on disk some time later: a
    crash of the machine may lose it, or leave it empty. `DeferredSync` makes that time short.
    """
    with atomic_file(path, is_synced=False) as stream:
        stream.write(content.encode())


@contextlib.contextmanager
def atomic_file(
    path: Path, mask: int = OWNERS, *, is_synced: bool = True, publish: bool = True
) -> Iterator[BinaryIO]:
    """A stream whose content is `path`, on disk, once the block ends well; else nothing is.

    Args:
        mask: see `mlflow_setup.filesystem.modes`.
        is_synced: wait for the disk.
        publish: as of `write_atomic`.
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
    """A temporary folder that becomes `path` when the block ends well, replacing nothing.

    Args:
        mask: of the folder and all that is in it, whatever their modes were; see
            `mlflow_setup.filesystem.modes`.

    Raises:
        FileExistsError: `path` is there already.
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


@contextlib.contextmanager
def must_write(place: Path) -> Iterator[None]:
    """Guard a block that has to write before any work begins.

    Raises:
        ConfigError: the disk is full, read-only or away; in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{place}: cannot be written: {error.strerror or error}",
            fix="make room, or name a storage folder that can be written to",
        ) from None


def is_full(error: BaseException | None) -> bool:
    """Whether an error comes of a disk, or a quota, without room.

    Writers that are not Python's have error classes of their own, and only words for it.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        if any(os.strerror(number) in str(error) for number in _NO_ROOM):
            return True
        error = error.__cause__ or error.__context__
    return False


def remove_folder(folder: Path) -> None:
    """Delete a folder that readers see whole or not at all; none there is as good.

    It is gone at once; what of it cannot be deleted now is a leftover.
    """
    if folder.exists():
        doomed = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder.parent))
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    storage_of(folder).withdraw(folder)


def remove_file(path: Path) -> None:
    """Delete a file that was written whole; none there is as good."""
    path.unlink(missing_ok=True)
    storage_of(path).withdraw(path)


def sync_file(path: Path) -> None:
    """Have the system put a file's content on disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Have the system put a folder's entries on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make the folder and its parents, their entries on disk too."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)
