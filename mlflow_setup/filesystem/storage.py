"""Where what is written lies: on a file system, or at a storage URI.

All code reads and writes local folders. A storage at a URI has a working copy here: what is written
into it whole (`mlflow_setup.filesystem.atomic`) is published as it is written, and what others have
published is asked for by `pull` and `fetch`. A folder in no working copy is the storage itself, and
there is nothing to publish or to ask for.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

TEMPORARY = ".tmp-"


class Cell(Protocol):
    """A small text that one process at a time changes: compare, and set. "" where there is none."""

    def read(self) -> tuple[str, str | None]:
        """The text, and the mark by which `swap` knows it."""
        ...

    def swap(self, mark: str | None, text: str) -> str | None:
        """Put `text` in the place of what has that mark. The new mark; None: somebody was
        quicker."""
        ...


class Lock(Protocol):
    """One holder at a time, on all machines."""

    def acquire(self, timeout: float) -> object:
        """Raises filelock.Timeout when it is held for that many seconds, and on."""
        ...

    def release(self) -> None: ...


class Storage:
    """A file system: a path is the place itself."""

    is_remote = False

    def address(self, path: Path) -> str:
        """The path as every machine names it."""
        return str(path)

    def publish(self, path: Path) -> None:
        """A file or folder has been written: have others see it, whole or not at all.

        Raises:
            StorageError: the store cannot be written to now.
        """

    def withdraw(self, path: Path) -> None:
        """A file or folder has been removed; raises StorageError as `publish`."""

    def in_background(
        self, folder: Path, *, is_lossy: bool = False
    ) -> contextlib.AbstractContextManager[None]:
        """While the block lasts, what is published or withdrawn below the folder is so in a thread
        of its own, in the same order, and nothing after what failed; once the block ends well all
        is. Raises StorageError at its end, as `settle`.

        Args:
            is_lossy: what cannot be written now is let go, and what has not begun by the end.
        """
        return contextlib.nullcontext()

    def settle(self, folder: Path) -> None:
        """Wait until all is published that is so in the background; raises StorageError where it
        cannot be."""

    def is_settled(self, folder: Path) -> bool:
        """Whether `settle` needs no waiting. Quick enough to be asked before every step."""
        return True

    def pull(self, folder: Path, *patterns: str) -> None:
        """Bring files below the folder up to what is published, and remove what no longer is.

        Args:
            patterns: names below the folder; `*` stands for any text but a slash.

        Raises:
            StorageError: the store cannot be read now.
        """

    def pull_file(self, path: Path) -> None:
        """`pull` of one file."""

    def fetch(self, folder: Path) -> None:
        """Bring all of a folder that was published whole; one that was published in part, by who
        did not come to the end of it, is not there. Raises StorageError as `pull`."""

    def num_bytes(self, path: Path) -> int:
        """The space of a file, or of all that is published below a folder."""
        return disk_bytes(path)

    def names(self, folder: Path) -> list[str]:
        """Folders in the folder."""
        return [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []

    def begin(self, folder: Path) -> None:
        """What lies here of the folder is forgotten: it is what is published and nothing else."""

    def end(self, folder: Path) -> None:
        """All is published, and not needed here any more."""

    def claim(self, folder: Path) -> None:
        """Make the folder; raises FileExistsError where it is there: of all who ask, one makes
        it."""
        folder.mkdir(mode=0o700)

    def give_back(self, folder: Path) -> None:
        """Undo `claim`, where nothing was made of the folder; else nothing, or an OSError."""
        remove_leftovers(folder)
        folder.rmdir()

    def cell(self, path: Path) -> Cell | None:
        """The object at `path`, to be changed by one process at a time; None: it is a file."""
        return None

    def lock(self, path: Path) -> Lock:
        """The lock at `path`."""
        from filelock import FileLock

        return FileLock(path)

    def database(self, folder: Path) -> Path:
        """Where the folder's database lies; raises ConfigError where none can."""
        return folder / "mlflow.db"

    def probe(self) -> None:
        """Prove that leases hold here; raises ConfigError where the store ignores conditions, or
        may not be written to, read from and deleted from."""

    def raise_flag(self, path: Path) -> None:
        """Have `is_raised` be true in every process."""
        path.touch()

    def lower_flag(self, path: Path) -> None:
        """Undo `raise_flag`."""
        path.unlink(missing_ok=True)

    def is_raised(self, path: Path) -> bool:
        """Whether the flag at `path` is up. Quick enough to be asked before every step."""
        return path.exists()


_LOCAL = Storage()
_copies: dict[Path, Storage] = {}


def know(root: Path, storage: Storage) -> None:
    """Paths below `root` are in this storage from now on."""
    _copies.setdefault(root, storage)


def storage_of(path: Path) -> Storage:
    """The storage that a path of this machine is in."""
    if _copies:
        place = path.absolute()
        for root, storage in _copies.items():
            if place.is_relative_to(root):
                return storage
    return _LOCAL


def num_bytes(path: Path) -> int:
    """The size of a file, or of all files below a folder; what goes meanwhile counts nothing."""
    return sum(stat.st_size for stat in _files(path))


def disk_bytes(path: Path) -> int:
    """The same of the space on disk: of a file with n names (hard links) an n-th for each name."""
    return round(sum(stat.st_size / max(1, stat.st_nlink) for stat in _files(path)))


def _files(path: Path) -> Iterator[os.stat_result]:
    for file in (path, *path.rglob("*")):
        with contextlib.suppress(OSError):
            if file.is_file():
                yield file.stat()


def remove_leftovers(folder: Path) -> None:
    """Delete what a crash in the middle of a write left in `folder`."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
