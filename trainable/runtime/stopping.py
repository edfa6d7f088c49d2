"""What several trials need is made by one process, the others wait, and all can be stopped.

The question whether to stop is a trial's sign of life as well (`trainable.tune.attempt`), so work
and waits of any length ask it again and again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from mlflow_setup.filesystem.storage import Lock, storage_of

Stop = Callable[[], bool]
"""Whether to stop, asked between pieces of work."""

_ASK_EVERY = 1.0  # seconds


class AskedToStop(Exception):
    """Ends what is done before or between a trial's steps; the message says what it was."""


def never() -> bool:
    """The stop of what runs to its end."""
    return False


@contextmanager
def exclusive(folder: Path, stop: Stop) -> Iterator[None]:
    """Hold the lock of `folder`: one process makes it, the others enter when that one has left.

    Raises:
        AskedToStop: while another process made it.
        StorageError: what another machine has made cannot be fetched now.
    """
    lock = _lock_of(folder)
    while not _is_acquired(lock, _ASK_EVERY):
        go_on(stop, f"while another process made {folder.name}")
    try:
        storage_of(folder).fetch(folder)
        yield
    finally:
        lock.release()


def is_free(folder: Path) -> bool:
    """Whether no process is within `exclusive` of the folder, now."""
    lock = _lock_of(folder)
    if not _is_acquired(lock, 0):
        return False
    lock.release()
    return True


def _lock_of(folder: Path) -> Lock:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return storage_of(folder).lock(folder.with_name(f"{folder.name}.lock"))


def _is_acquired(lock: Lock, timeout: float) -> bool:
    try:
        lock.acquire(timeout)
    except Timeout:
        return False
    return True


def go_on(stop: Stop, doing: str) -> None:
    """Go on with the next piece of work, unless a stop is asked for.

    Raises:
        AskedToStop: `stop` says so.
    """
    if stop():
        raise AskedToStop(doing)
