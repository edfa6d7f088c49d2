"""Run the mirror in background threads, so that MLflow never makes a trial wait.

The queue is a set of trial names, so it is bounded by the number of trials however long a server is
away. What the server missed is sent once it responds again.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from mlflow_setup.errors import PartialError
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import TrialSnapshot

RETRY_SECONDS = 5.0
PATIENCE_SECONDS = 60.0
"""How long the end of a sweep waits for a server while no request succeeds."""
NUM_SERVER_THREADS = 4
"""How many trials are sent to a tracking server at a time, because a request may take long."""

_logger = logging.getLogger(__name__)


class BackgroundMirror:
    """Projects trials in background threads. All methods but `close` return at once.

    Args:
        snapshot: reads a trial's folder; called in these threads.
        num_threads: how many trials are projected at a time.
    """

    def __init__(
        self, mirror: Mirror, snapshot: Callable[[str], TrialSnapshot], num_threads: int = 1
    ) -> None:
        self._mirror, self._snapshot = mirror, snapshot
        self._waiting: dict[str, None] = {}  # an ordered set of names: first in, first out
        self._in_progress: set[str] = set()
        self._unreadable: set[str] = set()
        self._changed = threading.Condition()
        self._final: str | None = None  # the sweep's final status, set by `close`
        self._is_closed = self._is_finishing = self._has_given_up = False
        self._advanced = time.monotonic()  # when a request last succeeded
        mirror.on_progress = self._note_progress
        self._threads = [
            threading.Thread(target=self._run, name="mirror", daemon=True)
            for _ in range(num_threads)
        ]

    def start(self, *given: Any) -> None:
        """Start the threads; the sweep's own run is created first, by `Mirror.start(*given)`."""
        self._given = given
        self._threads[0].start()

    def mark(self, trial: str) -> None:
        """Queue a trial whose folder has changed."""
        with self._changed:
            self._waiting.setdefault(trial)
            self._changed.notify_all()

    def close(self, status: str, patience_seconds: float = PATIENCE_SECONDS) -> set[str]:
        """Project what is left, end the sweep's run, and return the names that MLflow has missed.

        Waits as long as a request succeeds every `patience_seconds`. A server that does not respond
        is tried once more.
        """
        with self._changed:
            self._final, self._advanced = status, time.monotonic()
            self._changed.notify_all()
            while not (self._is_closed or self._has_given_up):
                left = self._advanced + patience_seconds - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            missed = {*self._waiting, *self._in_progress, *self._unreadable}
        return missed if self._is_closed else missed | {self._mirror.sweep}

    def _note_progress(self) -> None:
        with self._changed:
            self._advanced = time.monotonic()

    def _run(self) -> None:
        if threading.current_thread() is self._threads[0]:
            self._mirror.try_start(*self._given)  # if it fails, the first projection tries again
            for other in self._threads[1:]:
                other.start()
        while (name := self._next()) is not None:
            began = time.monotonic()
            if self._project(name):
                continue
            with self._changed:
                if self._final is not None and self._advanced <= began:  # no thread had success
                    self._has_given_up = True
                    self._changed.notify_all()
                    return
                self._changed.wait_for(lambda: self._final is not None, RETRY_SECONDS)
        self._finish()

    def _next(self) -> str | None:
        """Wait for a queued trial that no other thread works on; None when there are no more."""

        def free() -> str | None:
            return next((name for name in self._waiting if name not in self._in_progress), None)

        def is_over() -> bool:
            is_done = self._final is not None and not self._waiting and not self._in_progress
            return is_done or self._has_given_up

        with self._changed:
            self._changed.wait_for(lambda: free() or is_over())
            name = None if self._has_given_up else free()
            if name is not None:
                del self._waiting[name]
                self._in_progress.add(name)
            return name

    def _project(self, name: str) -> bool:
        """Project a trial; whether that succeeded. A trial whose folder cannot be read is queued
        again, or, while closing, given up."""
        is_readable = done = True
        try:
            done = self._mirror.try_project(self._snapshot(name))
        except (OSError, ValueError) as error:
            _logger.warning("trial %s cannot be tracked: %s", name, error)
            is_readable = False
        with self._changed:
            self._in_progress.discard(name)
            if done and is_readable:
                self._advanced = time.monotonic()
            elif is_readable or self._final is None:
                self._waiting.setdefault(name)
            else:
                self._unreadable.add(name)
            self._changed.notify_all()
            return done and (is_readable or self._final is not None)

    def _finish(self) -> None:
        """End the sweep's run, in the first thread that gets here."""
        with self._changed:
            if self._has_given_up or self._is_finishing:
                return
            self._is_finishing, status = True, str(self._final)
        try:
            self._mirror.finish(status)
            has_finished = True
        except PartialError as error:
            _logger.debug("the sweep's run stays open: %s", error)
            has_finished = False
        with self._changed:
            self._is_closed, self._has_given_up = has_finished, not has_finished
            self._changed.notify_all()
