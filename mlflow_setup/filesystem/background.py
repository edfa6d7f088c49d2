"""Background threads that upload to a store."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path


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
        """Wait for all writes below or around the path; raises the first error."""
        lane = self._of(path)
        if lane is not None:
            lane.wait()

    def are_idle(self, path: Path) -> bool:
        """Whether `wait` returns, or raises, at once."""
        lane = self._of(path)
        return lane is None or lane.is_idle()

    def _of(self, path: Path) -> "_Lane | None":
        return next((self._lanes[p] for p in (path, *path.parents) if p in self._lanes), None)


class _Lane:
    """The writes of one thread, made in the order in which they were added."""

    def __init__(self, *, is_lossy: bool) -> None:
        self.is_lossy = is_lossy
        self._let_go = (OSError,) if is_lossy else ()
        self._pool = ThreadPoolExecutor(1, "uploads")
        self._last: Future[None] | None = None

    def add(self, write: Callable[[], None]) -> None:
        """Return at once. After a failure nothing more is written: it may name what is missing."""
        self._last = self._pool.submit(self._make, write, self._last)

    def _make(self, write: Callable[[], None], before: Future[None] | None) -> None:
        with suppress(*self._let_go):
            if before is not None:
                before.result()
            write()

    def is_idle(self) -> bool:
        return self._last is None or self._last.done()

    def wait(self) -> None:
        """Wait for all writes; raises the first error."""
        if self._last is not None:
            self._last.result()

    def close(self) -> None:
        """Wait for the write that has begun, and for all others unless they may be lost."""
        self._pool.shutdown(cancel_futures=self.is_lossy)
