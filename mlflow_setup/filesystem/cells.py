"""Compare-and-swap of a small text: the basis of leases.

On a file system a lock guards the comparison and the write. In an object store the write is
conditional: create only if absent, replace only the version that was read.
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
_UNSUPPORTED = "501 Not Implemented"  # the answer of a store without conditional writes


class FileCell:
    """A file, with a lock file beside it. Its version mark is its text."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[str, str | None]:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "", None
        return text, text

    def swap(self, mark: str | None, text: str) -> str | None:
        """Raises OSError if the file cannot be written, filelock.Timeout if the lock is held."""
        with FileLock(f"{self.path}.lock", timeout=LOCK_SECONDS):
            if self.read()[1] != mark:
                return None
            if text:
                write_atomic(self.path, text)
            else:
                self.path.unlink()
        return text


class StoreCell:
    """An object in a store. Clearing it leaves an empty object: no store deletes conditionally."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self.store, self.name = store, name

    def read(self) -> tuple[str, str | None]:
        """Raises StorageError if the store cannot be read now."""
        content, mark = self.store.get(self.name)
        return content.decode("utf-8", "replace"), mark

    def swap(self, mark: str | None, text: str) -> str | None:
        """Raises StorageError if the store cannot be written now."""
        new = self.store.swap(self.name, text.encode(), mark)
        if new is not None or not text:
            return new
        current, new = self.read()  # a retried request may have succeeded the first time
        return new if current == text else None


def has_conditional_writes(store: ObjectStore) -> bool:
    """Whether the store rejects the second of two writes that create an object, and of two that
    replace the same version.

    Raises:
        StorageError: the store cannot be written, read or deleted from, or not now.
    """
    cell = StoreCell(store, f".probe-{uuid.uuid4().hex}")
    try:
        made = [cell.swap(None, text) for text in ("one", "other")]
        mark = cell.read()[1]
        replaced = [cell.swap(mark, text) for text in ("third", "fourth")]
    except StorageError as error:
        with suppress(StorageError):
            store.delete([cell.name])
        if _UNSUPPORTED in error.problem:
            return False
        raise
    store.delete([cell.name])
    return [bool(won) for won in (*made, *replaced)] == [True, False, True, False]


def require_conditional_writes(store: ObjectStore) -> None:
    """Raise ConfigError where the store has no conditional writes, or cannot be accessed."""
    try:
        is_supported = has_conditional_writes(store)
    except StorageError as error:
        raise ConfigError(f"--storage {error.problem}", fix=error.fix) from None
    if not is_supported:
        raise ConfigError(
            f"--storage {store.uri}: this store does not support conditional writes "
            "(If-None-Match, If-Match): two drivers could hold the lease of one sweep",
            fix="use a store that does (Amazon S3, Google Cloud Storage, Azure Blob "
            "Storage, MinIO), or a folder that every node mounts",
        )


def cell_of(path: Path) -> Cell:
    """The compare-and-swap cell at `path`: a file, or an object if `path` is in a working copy."""
    return storage_of(path).cell(path) or FileCell(path)
