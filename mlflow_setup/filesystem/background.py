"""What is done for files in a thread of its own: they are put on disk, they go up to a store."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from mlflow_setup.filesystem.atomic import sync_file, sync_folder

_logger = logging.getLogger(__name__)


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


class _Lane:
    """Writes that a thread makes, one after another, as they were asked for."""

    def __init__(self, *, is_lossy: bool) -> None:
        self.is_lossy = is_lossy
        self._pool = ThreadPoolExecutor(1, "uploads")
        self._last: Future[None] | None = None

    def add(self, write: Callable[[], None]) -> None:
        """Returns at once. After one that has failed none is made: it may name what is missing."""
        before = self._last

        def make() -> None:
            if self.is_lossy:
                with suppress(OSError):
                    write()
                return
            if before is not None:
                before.result()
            write()

        self._last = self._pool.submit(make)

    def is_idle(self) -> bool:
        return self._last is None or self._last.done()

    def wait(self) -> None:
        """Until all are made; raises what the first that failed has raised."""
        if self._last is not None:
            self._last.result()

    def close(self) -> None:
        """Waits for what has begun, and for all the rest that must not be lost."""
        self._pool.shutdown(cancel_futures=self.is_lossy)


class Lanes:
    """Folders whose writes to a store are made in the background, each by a thread of its own."""

    def __init__(self) -> None:
        self._lanes: dict[Path, _Lane] = {}

    @contextmanager
    def open(self, folder: Path, *, is_lossy: bool) -> Iterator[None]:
        """As `mlflow_setup.filesystem.storage.Storage.in_background`."""
        lane = self._lanes[folder] = _Lane(is_lossy=is_lossy)
        try:
            yield
            if not is_lossy:
                lane.wait()
        finally:
            lane.close()
            del self._lanes[folder]

    def run(self, path: Path, write: Callable[[Path], None]) -> None:
        """`write(path)`, in the background where the path is below such a folder: of several the
        innermost."""
        lane = self._of(path)
        if lane is None:
            write(path)
        else:
            lane.add(lambda: write(path))

    def wait(self, path: Path) -> None:
        """Until all is written below or around the path; raises what the first that failed did."""
        lane = self._of(path)
        if lane is not None:
            lane.wait()

    def are_idle(self, path: Path) -> bool:
        """Whether `wait` returns, or raises, at once."""
        lane = self._of(path)
        return lane is None or lane.is_idle()

    def _of(self, path: Path) -> _Lane | None:
        return next((self._lanes[p] for p in (path, *path.parents) if p in self._lanes), None)
