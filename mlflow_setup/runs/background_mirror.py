"""The mirror in a thread of its own: tracking never makes a trial wait.

What waits to be projected is a set of names, so it is bounded by the number of trials however long
a server is away; what was missed is projected once it answers again.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from mlflow_setup.errors import PartialError
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import TrialSnapshot

RETRY_SECONDS = 5.0
PATIENCE_SECONDS = 60.0
"""How long the end of a sweep waits for a server that is slow."""

_logger = logging.getLogger(__name__)


class BackgroundMirror:
    """Projects trials when it can. All methods return at once, but `close`.

    Args:
        snapshot: reads a trial's folder; called in the mirror's thread.
    """

    def __init__(self, mirror: Mirror, snapshot: Callable[[str], TrialSnapshot]) -> None:
        self._mirror, self._snapshot = mirror, snapshot
        self._waiting: dict[str, None] = {}  # names, the one that waits longest first
        self._changed = threading.Condition()
        self._final: str | None = None  # the sweep's last status
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def start(self, *given: Any) -> None:
        """Begin to project, the sweep's own run first, by the arguments of `Mirror.start`."""
        self._given = given
        self._thread.start()

    def mark(self, trial: str) -> None:
        """The trial's folder has changed."""
        with self._changed:
            self._waiting.setdefault(trial)
            self._changed.notify_all()

    def close(self, status: str, patience_seconds: float = PATIENCE_SECONDS) -> set[str]:
        """Project what is left, end the sweep's run; the names that MLflow has missed.

        A server that does not answer is asked once more, then left alone.
        """
        with self._changed:
            self._final = status
            self._changed.notify_all()
        self._thread.join(patience_seconds)
        with self._changed:
            missed = set(self._waiting)
        return missed if self._is_closed else missed | {self._mirror.sweep}

    def _run(self) -> None:
        self._mirror.try_start(*self._given)  # or else the first projection does it
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._final is not None)
                name, final = next(iter(self._waiting), None), self._final
            if name is None:
                self._finish(str(final))
                return
            if self._project(name):
                continue
            if final is not None:
                return
            with self._changed:
                self._changed.wait_for(lambda: self._final is not None, RETRY_SECONDS)

    def _project(self, name: str) -> bool:
        """Whether MLflow could be written to. A folder that cannot be read is put at the end."""
        with self._changed:
            self._waiting.pop(name)
        try:
            done = self._mirror.try_project(self._snapshot(name))
        except (OSError, ValueError) as error:
            _logger.warning("trial %s cannot be tracked: %s", name, error)
            done = False
        if not done:
            with self._changed:
                self._waiting.setdefault(name)
        return done

    def _finish(self, status: str) -> None:
        try:
            self._mirror.finish(status)
            self._is_closed = True
        except PartialError as error:
            _logger.debug("the sweep's run stays open: %s", error)
