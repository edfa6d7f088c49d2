"""A small text that one process at a time changes: compare, and set.

What a lease is held by. On a file system a lock stands around looking and writing; in an object
store the write has a condition: create only if absent, replace only what was read.
"""

from pathlib import Path
from typing import Protocol

from filelock import FileLock

from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.filesystem.object_store import ObjectStore

LOCK_SECONDS = 4.0


class Cell(Protocol):
    """Its text is "" where there is none."""

    def read(self) -> tuple[str, str | None]:
        """The text, and the mark by which `swap` knows it."""
        ...

    def swap(self, mark: str | None, text: str) -> str | None:
        """Put `text` in the place of what has that mark. The new mark; None: somebody was
        quicker."""
        ...


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
        """Raises OSError where it cannot be written, filelock.Timeout where another is at it."""
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
        found, new = self.read()  # the answer to a try that was made again may have been lost
        return new if found == text else None
