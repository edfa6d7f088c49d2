"""Output files and folders that the user names: checked before the work, with the user's umask.

Such a path may be a device, a pipe or a link, which is written through; a regular file is replaced
atomically.
"""

import contextlib
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.atomic import atomic_file, is_full
from mlflow_setup.filesystem.modes import users_mask
from mlflow_setup.filesystem.storage import storage_of


def check_file(path: Path, option: str = "--output") -> None:
    """Check, before any work, that a file can be written at `path`.

    Raises:
        ConfigError: naming the option: `path` is a folder, its folder is missing, or it cannot be
            written.
    """
    with _write_errors(path, option):
        if path.is_dir():
            raise ConfigError(f"{option} {path}: is a folder", fix="name a file in it")
        if _is_special(path):
            return
        folder = path.resolve().parent
        if not folder.is_dir():
            raise ConfigError(
                f"{option} {path}: there is no folder {folder}", fix=f"mkdir -p {folder}"
            )
        _check_writable(folder)
        if path.exists():
            path.open("ab").close()


@contextlib.contextmanager
def output_file(path: Path, option: str = "--output") -> Iterator[BinaryIO]:
    """A stream to `path`: direct for a device or a pipe, else atomic, written if the block ends
    without an error.

    If `path` is a link, its target is written. An existing file keeps its mode.

    Raises:
        ConfigError: as `check_file`, or the write fails.
    """
    check_file(path, option)
    with _write_errors(path, option):
        if _is_special(path):
            with path.open("wb") as stream:
                yield stream
            return
        target = path.resolve()
        mask = users_mask()
        if target.exists():
            mask = 0o666 & ~stat.S_IMODE(target.stat().st_mode)
        with atomic_file(target, mask) as stream:
            yield stream


def check_folder(path: Path, option: str = "--output") -> None:
    """Check, before any work, that `path` is an empty folder, or that a new one can be made there.

    Raises:
        ConfigError: `path` exists and is not an empty folder, or no folder can be made there.
    """
    storage = storage_of(path)
    storage.begin(path)
    if storage.is_remote and storage.num_bytes(path):
        raise ConfigError(f"{storage.address(path)} is there already", fix="name a new folder")
    with _write_errors(path, option):
        is_empty = path.is_dir() and not any(path.iterdir())
        if path.exists() and not is_empty:
            raise ConfigError(
                f"{path} is there already", fix="name a new folder, or remove this one"
            )
        if path.is_mount():
            raise ConfigError(
                f"{option} {path}: is a mount point, which cannot be replaced",
                fix="name a folder in it",
            )
        place = path.resolve()
        above = next(each for each in place.parents if each.exists())
        if not above.is_dir():
            raise ConfigError(f"{option} {path}: {above} is no folder", fix="name a new folder")
        _check_writable(above)


def make_folder(path: Path) -> None:
    """Make a folder with the mode that the user's umask gives; an existing one keeps its mode."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777 & ~users_mask())


def _is_special(path: Path) -> bool:
    """Whether `path` is, or links to, something other than a regular file."""
    return path.exists() and not path.is_file()


def _check_writable(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):  # the mode says too little: of root, for example
        pass


@contextlib.contextmanager
def _write_errors(path: Path, option: str) -> Iterator[None]:
    """Turn an OSError into a ConfigError, unless the disk is full."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise
        raise ConfigError(
            f"{option} {path}: cannot be written: {error.strerror or error}",
            fix="name a place that can be written to",
        ) from None
