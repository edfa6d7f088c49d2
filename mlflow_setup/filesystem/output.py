"""Files and folders that the user names: proved before the work, and for others to read.

Our own records are replaced whole. A path of the user's may be a device, a pipe or a link, and is
written through; a regular file is replaced whole here too.
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
    """Prove, before any work, that a file can be written at `path`.

    Raises:
        ConfigError: naming the option: a folder is there, its own is missing, or it is closed.
    """
    with _told(path, option):
        if path.is_dir():
            raise ConfigError(f"{option} {path}: is a folder", fix="name a file in it")
        if _is_special(path):
            return
        folder = path.resolve().parent
        if not folder.is_dir():
            raise ConfigError(
                f"{option} {path}: there is no folder {folder}", fix=f"mkdir -p {folder}"
            )
        _prove_writable(folder)
        if path.exists():
            path.open("ab").close()


@contextlib.contextmanager
def output_file(path: Path, option: str = "--output") -> Iterator[BinaryIO]:
    """A stream to `path`: into a device or a pipe as it comes, else whole once the block ends well.

    Where `path` is a link, what it leads to is written. A file that is there keeps its mode.

    Raises:
        ConfigError: as `check_file`, or it cannot be written after all.
    """
    check_file(path, option)
    with _told(path, option):
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
    """Prove, before any work, that `path` can become a new folder, or is an empty one to be filled.

    Raises:
        ConfigError: something is there already, or nothing can be made there.
    """
    storage = storage_of(path)
    storage.begin(path)
    if storage.is_remote and storage.num_bytes(path):
        raise ConfigError(f"{storage.address(path)} is there already", fix="name a new folder")
    with _told(path, option):
        is_empty = path.is_dir() and not any(path.iterdir())
        if path.exists() and not is_empty:
            raise ConfigError(
                f"{path} is there already", fix="name a new folder, or remove this one"
            )
        if path.is_mount():
            raise ConfigError(
                f"{option} {path}: is a mount, which cannot be replaced", fix="name a folder in it"
            )
        place = path.resolve()
        above = next(each for each in place.parents if each.exists())
        if not above.is_dir():
            raise ConfigError(f"{option} {path}: {above} is no folder", fix="name a new folder")
        _prove_writable(above)


def make_folder(path: Path) -> None:
    """The folder, with the mode that the user's umask leaves; one that is there keeps its own."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777 & ~users_mask())


def _is_special(path: Path) -> bool:
    """Whether `path` is, or leads to, something that is neither a regular file nor missing."""
    return path.exists() and not path.is_file()


def _prove_writable(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):  # root may do what its mode denies, but not all
        pass


@contextlib.contextmanager
def _told(path: Path, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise
        raise ConfigError(
            f"{option} {path}: cannot be written: {error.strerror or error}",
            fix="name a place that can be written to",
        ) from None
