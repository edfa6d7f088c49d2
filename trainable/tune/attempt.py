"""One process's try at a trial: alone in the folder, watched, counted, and open to a stop.

Before each step the loop asks whether to stop. That question is also its sign of life: it moves
the deadline after which a silent process ends itself, and brings the record of seconds up to date.
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

_LOOK_EVERY = 0.5  # seconds between looks at the stop file
_COUNT_EVERY = 10.0  # seconds between writes of the attempt's record, and samples at first
_MAX_DENSITY = 100  # samples of the machine in the time that a trial has taken so far


_terminated = threading.Event()


@dataclass(frozen=True)
class Limits:
    """What an attempt is held to."""

    stop_file: Path  # there: every trial of the sweep stops at its next step
    max_silence_seconds: float = 1800.0
    wait_seconds: float = 60.0  # for an earlier process of the same trial to be gone
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    node_type: str = "local"
    usd_per_hour: float = 0.0  # the price of the part of the node that the trial takes


class Attempt:
    """Entered around a trial's training. Not thread-safe; one at a time in a process."""

    def __init__(self, folder: Path, limits: Limits, started: float | None = None) -> None:
        """Args:
        started: when the process began with it, by `time.monotonic`; None: now.
        """
        self.folder, self.limits = folder, limits
        self._storage = storage_of(folder)
        lock = folder.parent / LOCKS / safe_name(folder.name, "trial")
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = self._storage.lock(lock)
        self._looked = self._counted = time.monotonic()
        self._started = self._looked if started is None else started
        self._is_asked = False

    def __enter__(self) -> Self:
        """Raises PartialError when another process is still at the trial, OSError when the folder
        cannot be written to."""
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
        self._lane = ExitStack()  # what the attempt tells of itself holds nothing up
        self._lane.enter_context(self._storage.in_background(self.folder / ATTEMPTS, is_lossy=True))
        self._watch()
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._stacks.close()
        _stacks_path(self._path).unlink(missing_ok=True)
        self._lane.close()
        self._count(is_over=True)
        self._sample()
        self._storage.end(self.folder)
        self._lock.release()

    def should_stop(self) -> bool:
        """Asked before each step: a clock is read, and twice a second a file is looked for."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_EVERY:
            self._looked = now
            self._watch()
            self._is_asked = self._storage.is_raised(self.limits.stop_file)
            if now - self._counted >= _COUNT_EVERY:
                self._count()
                if now - self._sampled >= (now - self._started) / _MAX_DENSITY:
                    self._sample()
        return self._is_asked or was_terminated()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Do not count silence as the trial's while the driver is waited for."""
        faulthandler.cancel_dump_traceback_later()
        try:
            yield
        finally:
            self._watch()

    def _watch(self) -> None:
        """A thread of the interpreter's own ends the process, even one that hangs in C."""
        seconds = self.limits.max_silence_seconds
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._stacks)

    def _count(self, *, is_over: bool = False) -> None:
        with suppress(OSError):  # a full disk is the trial's own writes to report
            self._write(is_over=is_over)

    def _sample(self) -> None:
        self._sampled = time.monotonic()
        with suppress(OSError, psutil.Error):
            append_sample(self._path, self._meter.read())

    def _write(self, *, is_over: bool = False) -> None:
        self._counted = time.monotonic()
        record = AttemptRecord(
            host=socket.gethostname(),
            node_type=self.limits.node_type,
            num_cpus=self.limits.num_cpus,
            num_gpus=self.limits.num_gpus,
            usd_per_hour=self.limits.usd_per_hour,
            start_time=self._start_time,
            seconds=self._counted - self._started,
            is_over=is_over,
        )
        write_atomic(self._path, record.to_json())


def listen() -> None:
    """Have SIGTERM (a spot notice, a cluster's scheduler) ask the trial here to stop from now on; a
    second one ends the process at once.

    To be called in the process's main thread.
    """
    _terminated.clear()
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    if _terminated.is_set():
        os._exit(STOPPED)  # the trial goes on from its last checkpoint
    _terminated.set()


def was_terminated() -> bool:
    """Whether SIGTERM has come since."""
    return _terminated.is_set()


def charge(folder: Path, seconds: float) -> None:
    """The newest attempt's process was lost: put down what it has taken by its driver's clock.

    Its own record ends at the last sign of life, and a process that hangs gives none for long.
    """
    newest = max((folder / ATTEMPTS).glob("[0-9]*.json"), default=None)
    if newest is None:
        return
    try:
        record = AttemptRecord.from_json(newest.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # damaged: what it was charged for is lost
        return
    if not record.is_over:
        whole = replace(record, seconds=max(record.seconds, seconds), is_over=True)
        write_atomic(newest, whole.to_json())


def last_stacks(folder: Path) -> Path | None:
    """What each thread of the newest attempt was at when it was ended for its silence, or None."""
    newest = max((folder / ATTEMPTS).glob("[0-9]*.json"), default=None)
    path = None if newest is None else _stacks_path(newest)
    return path if path is not None and path.is_file() and path.stat().st_size else None


def _stacks_path(attempt: Path) -> Path:
    return attempt.with_suffix(".stacks.txt")


def _next_path(folder: Path) -> Path:
    taken = [int(path.stem) for path in folder.glob("[0-9]*.json") if path.stem.isdecimal()]
    return folder / f"{max(taken, default=0) + 1:04d}.json"
