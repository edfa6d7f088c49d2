"""The interface of a storage: a local file system, or an object store with a local working copy.

All code reads and writes local folders. A storage at a URI has a working copy on this machine:
files written atomically into it (`mlflow_setup.filesystem.atomic`) are uploaded ("published"), and
`pull` and `fetch` download what other machines have published. On a file system there is nothing to
upload or download, and these methods do nothing.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

TEMPORARY = ".tmp-"


class Cell(Protocol):
    """A small text with compare-and-swap; "" means that it does not exist."""

    def read(self) -> tuple[str, str | None]:
        """The text and its version mark; None as the mark if the cell does not exist."""
        ...

    def swap(self, mark: str | None, text: str) -> str | None:
        """Replace the version that has `mark` by `text`. Return the new mark; None if another
        process changed the text first."""
        ...


class Lock(Protocol):
    """A mutual exclusion lock, across machines."""

    def acquire(self, timeout: float) -> object:
        """Raises filelock.Timeout if another holder keeps it for `timeout` seconds."""
        ...

    def release(self) -> None: ...


class Storage:
    """A storage on a file system; `WorkingCopy` overrides the methods for an object store."""

    is_remote = False

    def address(self, path: Path) -> str:
        """The path or URI by which any machine can refer to `path`."""
        return str(path)

    def publish(self, path: Path) -> None:
        """Upload a file or folder that has been written, atomically for its readers.

        Raises:
            StorageError: the store cannot be written to now.
        """

    def withdraw(self, path: Path) -> None:
        """Delete from the store what has been deleted here; raises StorageError as `publish`."""

    def in_background(
        self, folder: Path, *, is_lossy: bool = False
    ) -> contextlib.AbstractContextManager[None]:
        """While the block runs, publish and withdraw below `folder` in a background thread, in
        order, and stop at the first failure. A block that ends without an error waits for the rest,
        and raises StorageError as `settle`.

        Args:
            is_lossy: drop uploads that fail, and those that have not begun when the block ends.
        """
        return contextlib.nullcontext()

    def settle(self, folder: Path) -> None:
        """Wait for the background uploads of `folder`; raises StorageError if one has failed."""

    def is_settled(self, folder: Path) -> bool:
        """Whether no background upload is pending. Fast enough to call before every step."""
        return True

    def pull(self, folder: Path, *patterns: str) -> None:
        """Download new versions of files below the folder, and delete those no longer in the store.

        Args:
            patterns: paths relative to the folder; `*` matches any text without a slash.

        Raises:
            StorageError: the store cannot be read now.
        """

    def pull_file(self, path: Path) -> None:
        """`pull` of one file."""

    def fetch(self, folder: Path) -> None:
        """Download a folder that was published completely; one that was published in part, by a
        process that died, is treated as missing. Raises StorageError as `pull`."""

    def num_bytes(self, path: Path) -> int:
        """The size of a file, or of everything that is stored below a folder."""
        return disk_bytes(path)

    def names(self, folder: Path) -> list[str]:
        """The names of the folders directly in `folder`."""
        return [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []

    def begin(self, folder: Path) -> None:
        """Prepare to work on the folder: drop local changes that are not in the store, and what is
        known of downloads."""

    def end(self, folder: Path) -> None:
        """Delete the local copy of a folder whose files are all in the store."""

    def claim(self, folder: Path) -> None:
        """Create the folder; raises FileExistsError if it exists. Of several processes that try,
        one succeeds."""
        folder.mkdir(mode=0o700)

    def give_back(self, folder: Path) -> None:
        """Undo `claim` if nothing was written into the folder; otherwise do nothing, or raise
        OSError."""
        remove_leftovers(folder)
        folder.rmdir()

    def cell(self, path: Path) -> Cell | None:
        """The compare-and-swap object at `path`; None on a file system."""
        return None

    def lock(self, path: Path) -> Lock:
        """A lock at `path` that holds across machines."""
        from filelock import FileLock

        return FileLock(path)

    def database(self, folder: Path) -> Path:
        """The path of the folder's MLflow database; raises ConfigError in an object store."""
        return folder / "mlflow.db"

    def probe(self) -> None:
        """Check that leases work here; raises ConfigError if the store has no conditional writes,
        or may not be written, read and deleted from."""

    def raise_flag(self, path: Path) -> None:
        """Set a flag that every process sees by `is_raised`."""
        path.touch()

    def lower_flag(self, path: Path) -> None:
        """Clear a flag that `raise_flag` set."""
        path.unlink(missing_ok=True)

    def is_raised(self, path: Path) -> bool:
        """Whether the flag at `path` is set. Fast enough to call before every step."""
        return path.exists()


_LOCAL = Storage()
_working_copies: dict[Path, Storage] = {}


def register_working_copy(root: Path, storage: Storage) -> None:
    """Have `storage_of` return `storage` for paths below `root`."""
    _working_copies.setdefault(root, storage)


def storage_of(path: Path) -> Storage:
    """The storage that a local path belongs to."""
    if _working_copies:
        place = path.absolute()
        for root, storage in _working_copies.items():
            if place.is_relative_to(root):
                return storage
    return _LOCAL


def num_bytes(path: Path) -> int:
    """The size of a file, or of all files below a folder; files deleted meanwhile count as 0."""
    return sum(stat.st_size for stat in _files(path))


def disk_bytes(path: Path) -> int:
    """The disk space of the same: a file with n hard links counts 1/n for each of them."""
    return round(sum(stat.st_size / max(1, stat.st_nlink) for stat in _files(path)))


def _files(path: Path) -> Iterator[os.stat_result]:
    for file in (path, *path.rglob("*")):
        with contextlib.suppress(OSError):
            if file.is_file():
                yield file.stat()


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a crash during a write left in `folder`."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
