"""Files that are put on disk in a thread of its own, all that have come together at once.

For records that can be made anew: until they are on disk they outlive their process, whatever ends
it, but not their machine.
"""

import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

from mlflow_setup.filesystem.atomic import sync_file, sync_folder

_logger = logging.getLogger(__name__)


class DeferredSync:
    """Used in a block, at whose end all is on disk that was added."""

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
                        with suppress(FileNotFoundError):  # written, and removed with its folder
                            sync(place)
                    except OSError as error:  # what is written next will say so
                        _logger.warning("%s is not on disk: %s", place, error)

    def _next(self) -> set[Path]:
        """All that wait; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._has_ended)
            paths, self._waiting = self._waiting, set()
            return paths
