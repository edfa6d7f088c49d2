"""One process's attempt at a trial: it locks the trial's folder, records its time, and can be
stopped.

The training loop calls `should_stop` before each step. Each call is also a heartbeat: it postpones
the deadline after which a hanging process ends itself, and updates the record of the time taken.
"""

import faulthandler
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Self

import psutil
from filelock import Timeout

from mlflow_setup.errors import STOPPED, PartialError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.filesystem.paths import safe_name
from mlflow_setup.filesystem.storage import storage_of
from mlflow_setup.schema import AttemptRecord
from trainable.storage.layout import ATTEMPTS, LOCKS
from trainable.storage.system_samples import append_sample
from trainable.storage.trial_folder import TrialFolder
from trainable.tune.system_metrics import SystemMeter

_POLL_SECONDS = 0.5  # between checks of the stop file
_RECORD_SECONDS = 10.0  # between writes of the attempt's record; at least, between system samples
_SAMPLE_DENSITY = 100  # system samples are at least 1/100 of the elapsed time apart


_terminated = threading.Event()


@dataclass(frozen=True)
class Limits:
    """The limits and resources of an attempt."""

    stop_file: Path  # if it exists, every trial of the sweep stops at its next step
    max_silence_seconds: float = 1800.0  # without a heartbeat
    wait_seconds: float = 60.0  # for another process of the same trial to end
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    node_type: str = "local"
    usd_per_hour: float = 0.0  # price of the part of the node that the trial uses


class Attempt:
    """A context around a trial's training. Not thread-safe; one at a time per process."""

    def __init__(self, folder: Path, limits: Limits, started: float | None = None) -> None:
        """Args:
        started: when the process began the attempt, by `time.monotonic`; None: now.
        """
        self.folder, self.limits = folder, limits
        self._storage = storage_of(folder)
        lock = folder.parent / LOCKS / safe_name(folder.name, "trial")
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = self._storage.lock(lock)
        self._polled = self._recorded = time.monotonic()
        self._started = self._polled if started is None else started
        self._is_stop_requested = False

    def __enter__(self) -> Self:
        """Raises PartialError if another process still runs the trial, OSError if the folder cannot
        be written."""
        try:
            self._lock.acquire(timeout=self.limits.wait_seconds)
        except Timeout:
            raise PartialError(
                f"trial {self.folder.name}: another process still runs it",
                fix="end that process; it may belong to a driver that has died",
            ) from None
        with ExitStack() as undo:
            undo.callback(self._lock.release)
            self._storage.begin(self.folder)
            TrialFolder(self.folder).refresh()
            self._path = _next_path(self.folder / ATTEMPTS)
            self._start_time = time.time() - (time.monotonic() - self._started)
            self._write()
            self._meter, self._sampled = SystemMeter(), time.monotonic()
            self._stacks = _stacks_path(self._path).open("w", encoding="utf-8")
            undo.pop_all()
        self._uploads = ExitStack()  # of the attempt's records, which training does not wait for
        self._uploads.enter_context(
            self._storage.in_background(self.folder / ATTEMPTS, is_lossy=True)
        )
        self._restart_watchdog()
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._stacks.close()
        _stacks_path(self._path).unlink(missing_ok=True)
        self._uploads.close()
        self._record(is_over=True)
        self._sample()
        self._storage.end(self.folder)
        self._lock.release()

    def should_stop(self) -> bool:
        """Whether a stop is requested, by the stop file or SIGTERM. Cheap: reads a clock, and the
        file system at most twice a second."""
        now = time.monotonic()
        if now - self._polled >= _POLL_SECONDS:
            self._polled = now
            self._restart_watchdog()
            self._is_stop_requested = self._storage.is_raised(self.limits.stop_file)
            if now - self._recorded >= _RECORD_SECONDS:
                self._record()
                if now - self._sampled >= (now - self._started) / _SAMPLE_DENSITY:
                    self._sample()
        return self._is_stop_requested or was_terminated()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Suspend the watchdog while the trial waits for the driver."""
        faulthandler.cancel_dump_traceback_later()
        try:
            yield
        finally:
            self._restart_watchdog()

    def _restart_watchdog(self) -> None:
        """After `max_silence_seconds`, faulthandler's C thread writes the stacks of all threads and
        ends the process, even if it hangs in C code."""
        seconds = self.limits.max_silence_seconds
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._stacks)

    def _record(self, *, is_over: bool = False) -> None:
        with suppress(OSError):  # on a full disk, the trial's own writes raise the error
            self._write(is_over=is_over)

    def _sample(self) -> None:
        self._sampled = time.monotonic()
        with suppress(OSError, psutil.Error):
            append_sample(self._path, self._meter.read())

    def _write(self, *, is_over: bool = False) -> None:
        self._recorded = time.monotonic()
        record = AttemptRecord(
            host=socket.gethostname(),
            node_type=self.limits.node_type,
            num_cpus=self.limits.num_cpus,
            num_gpus=self.limits.num_gpus,
            usd_per_hour=self.limits.usd_per_hour,
            start_time=self._start_time,
            seconds=self._recorded - self._started,
            is_over=is_over,
        )
        write_atomic(self._path, record.to_json())


def listen() -> None:
    """Install a handler of SIGTERM, which spot instances and schedulers send: the first stops the
    trial at its next step, a second ends the process at once.

    Must be called in the main thread.
    """
    _terminated.clear()
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    if _terminated.is_set():
        os._exit(STOPPED)  # the trial can resume from its last checkpoint
    _terminated.set()


def was_terminated() -> bool:
    """Whether SIGTERM was received since `listen`."""
    return _terminated.is_set()


def charge(folder: Path, seconds: float) -> None:
    """Close the record of the newest attempt, whose process was lost, with the time that the driver
    has measured; the attempt's own record ends at its last heartbeat.
    """
    newest = max((folder / ATTEMPTS).glob("[0-9]*.json"), default=None)
    if newest is None:
        return
    try:
        record = AttemptRecord.from_json(newest.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # damaged, so its time is lost
        return
    if not record.is_over:
        closed = replace(record, seconds=max(record.seconds, seconds), is_over=True)
        write_atomic(newest, closed.to_json())


def last_stacks(folder: Path) -> Path | None:
    """The file with the stacks of the newest attempt's threads, if its watchdog ended it; else
    None."""
    newest = max((folder / ATTEMPTS).glob("[0-9]*.json"), default=None)
    path = None if newest is None else _stacks_path(newest)
    return path if path is not None and path.is_file() and path.stat().st_size else None


def _stacks_path(attempt: Path) -> Path:
    return attempt.with_suffix(".stacks.txt")


def _next_path(folder: Path) -> Path:
    taken = [int(path.stem) for path in folder.glob("[0-9]*.json") if path.stem.isdecimal()]
    return folder / f"{max(taken, default=0) + 1:04d}.json"
