"""Stop requests to the process that drives a sweep, or trains in a trial's folder.

They can be made by any process that reaches the storage folder, on any machine.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mlflow_setup.filesystem.atomic import must_write, remove_file, write_atomic
from mlflow_setup.filesystem.lease import (
    LEASE_FILE,
    STALE_SECONDS,
    Holder,
    read_lease,
    running_driver,
)
from search.storage.sweep_folder import SweepFolder
from trainable.storage.layout import STOP_REQUEST

_POLL_SECONDS = 0.5


def drivers(folder: SweepFolder) -> dict[Path, Holder]:
    """Return the processes that drive the sweep or train in it, by the folder that each holds.

    Takes seconds if there is a lease, to see whether its counter increases.
    """
    return _living([folder.path]) | trainings(folder)


def trainings(folder: SweepFolder) -> dict[Path, Holder]:
    """Return the processes that train single trials (`ensweep train`), by the trial's folder."""
    return _living([trial.path for trial in folder.trial_folders()])


def _living(paths: list[Path]) -> dict[Path, Holder]:
    holders = {path: running_driver(path) for path in paths if (path / LEASE_FILE).exists()}
    return {path: holder for path, holder in holders.items() if holder is not None}


def request_stop(folder: Path) -> None:
    """Write the request; the process that holds the folder sees it within a second.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    with must_write(folder / STOP_REQUEST):
        write_atomic(folder / STOP_REQUEST, "")


def until_left(folder: Path, holder: Holder) -> Iterator[Holder]:
    """Yield the holder, with its current counter, until it has released the folder or has died.

    Removes the request afterwards.
    """
    moved = time.monotonic()
    while True:
        current = read_lease(folder / LEASE_FILE)
        has_moved = current is not None and current.counter != holder.counter
        if current is None or current.token != holder.token:
            break
        if has_moved:
            holder, moved = current, time.monotonic()
        elif time.monotonic() - moved > STALE_SECONDS:
            break
        yield holder
        time.sleep(_POLL_SECONDS)
    with suppress(OSError):
        remove_file(folder / STOP_REQUEST)
