"""Locks for what several trials share, and requests to stop.

Calling a trial's `stop` also renews its heartbeat (`trainable.tune.attempt`), so long work and
waits must call it regularly.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from mlflow_setup.filesystem.storage import Lock, storage_of

Stop = Callable[[], bool]
"""Whether to stop; called between pieces of work."""

_POLL_SECONDS = 1.0


class StopRequested(Exception):
    """Work outside a trial's training steps was stopped on request; the message names the work."""


def never_stop() -> bool:
    """A `Stop` that never asks to stop."""
    return False


@contextmanager
def exclusive(folder: Path, stop: Stop) -> Iterator[None]:
    """Hold the lock of `folder`, so that one process creates it; the others wait, then enter.

    Raises:
        StopRequested: `stop` returned True while another process held the lock.
        StorageError: another machine has created the folder, and it cannot be fetched now.
    """
    lock = _lock_of(folder)
    while not _acquire(lock, _POLL_SECONDS):
        raise_if_stopped(stop, f"while another process made {folder.name}")
    try:
        storage_of(folder).fetch(folder)
        yield
    finally:
        lock.release()


def is_free(folder: Path) -> bool:
    """Whether no process is inside `exclusive` for the folder now."""
    lock = _lock_of(folder)
    if not _acquire(lock, 0):
        return False
    lock.release()
    return True


def _lock_of(folder: Path) -> Lock:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return storage_of(folder).lock(folder.with_name(f"{folder.name}.lock"))


def _acquire(lock: Lock, timeout: float) -> bool:
    """Acquire the lock within `timeout` seconds; return whether it was acquired."""
    try:
        lock.acquire(timeout)
    except Timeout:
        return False
    return True


def raise_if_stopped(stop: Stop, during: str) -> None:
    """Raise if a stop is requested.

    Args:
        during: names the work that ends, for example `while sentences were embedded`.

    Raises:
        StopRequested: `stop` returned True.
    """
    if stop():
        raise StopRequested(during)
