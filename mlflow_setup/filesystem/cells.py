"""A small text that one process at a time changes: compare, and set.

What a lease is held by. On a file system a lock stands around looking and writing; in an object
store the write has a condition: create only if absent, replace only what was read.
"""

import uuid
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from mlflow_setup.errors import ConfigError, StorageError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.filesystem.object_store import ObjectStore
from mlflow_setup.filesystem.storage import Cell, storage_of

LOCK_SECONDS = 4.0
_UNKNOWN = "501 Not Implemented"  # of a condition on a write


class FileCell:
    """A file, and a lock beside it. Its mark is its text."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[str, str | None]:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "", None
        return text, text

    def swap(self, mark: str | None, text: str) -> str | None:
        """Raises OSError where it cannot be written, filelock.Timeout where it is held."""
        with FileLock(f"{self.path}.lock", timeout=LOCK_SECONDS):
            if self.read()[1] != mark:
                return None
            if text:
                write_atomic(self.path, text)
            else:
                self.path.unlink()
        return text


class StoreCell:
    """An object. One that was cleared stays, empty: no store removes on a condition."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self.store, self.name = store, name

    def read(self) -> tuple[str, str | None]:
        """Raises StorageError where it cannot be read now."""
        content, mark = self.store.get(self.name)
        return content.decode("utf-8", "replace"), mark

    def swap(self, mark: str | None, text: str) -> str | None:
        """Raises StorageError where it cannot be written now."""
        new = self.store.swap(self.name, text.encode(), mark)
        if new is not None or not text:
            return new
        current, new = self.read()  # the answer to a try that was made again may have been lost
        return new if current == text else None


def keeps_conditions(store: ObjectStore) -> bool:
    """Whether of two who make an object, and of two who replace it, one is refused.

    Raises:
        StorageError: it may not be written to, read from and deleted from, or not now.
    """
    cell = StoreCell(store, f".probe-{uuid.uuid4().hex}")
    try:
        made = [cell.swap(None, text) for text in ("one", "other")]
        mark = cell.read()[1]
        replaced = [cell.swap(mark, text) for text in ("third", "fourth")]
    except StorageError as error:
        with suppress(StorageError):
            store.delete([cell.name])
        if _UNKNOWN in error.problem:
            return False
        raise
    store.delete([cell.name])
    return [bool(won) for won in (*made, *replaced)] == [True, False, True, False]


def require_conditions(store: ObjectStore) -> None:
    """Raises ConfigError as `mlflow_setup.filesystem.storage.Storage.probe`."""
    try:
        is_kept = keeps_conditions(store)
    except StorageError as error:
        raise ConfigError(f"--storage {error.problem}", fix=error.fix) from None
    if not is_kept:
        raise ConfigError(
            f"--storage {store.uri}: this store does not keep conditions (If-None-Match, "
            "If-Match): two drivers could hold one sweep",
            fix="use a store that keeps them (Amazon S3, Google Cloud Storage, Azure Blob "
            "Storage, MinIO), or a folder that every node mounts",
        )


def cell_of(path: Path) -> Cell:
    """The small file at `path`, or its object, to be changed by one process at a time."""
    return storage_of(path).cell(path) or FileCell(path)
