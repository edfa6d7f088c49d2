"""What several trials need is made by one process, the others wait, and all can be stopped.

The question whether to stop is a trial's sign of life as well (`trainable.tune.attempt`), so work
and waits of any length ask it again and again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from mlflow_setup.filesystem.storage import storage_of

Stop = Callable[[], bool]
"""Whether to stop, asked between pieces of work."""

_ASK_EVERY = 1.0  # seconds


class AskedToStop(Exception):
    """Ends what is done before or between a trial's steps; the message says what it was."""


def never() -> bool:
    """The stop of what runs to its end."""
    return False


@contextmanager
def exclusive(folder: Path, stop: Stop, waits: bool = True) -> Iterator[bool]:
    """Hold the lock of `folder`: one process makes it, the others enter when that one has left.

    Args:
        waits: False: enter at once, with False where another process holds it.

    Raises:
        AskedToStop: while another process made it.
        StorageError: what another machine has made cannot be fetched now.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    storage = storage_of(folder)
    lock = storage.lock(folder.with_name(f"{folder.name}.lock"))
    while True:
        try:
            lock.acquire(timeout=_ASK_EVERY if waits else 0)
            break
        except Timeout:
            if not waits:
                yield False
                return
            go_on(stop, f"while another process made {folder.name}")
    try:
        storage.fetch(folder)
        yield True
    finally:
        lock.release()


def go_on(stop: Stop, doing: str) -> None:
    """Go on with the next piece of work, unless a stop is asked for.

    Raises:
        AskedToStop: `stop` says so.
    """
    if stop():
        raise AskedToStop(doing)
