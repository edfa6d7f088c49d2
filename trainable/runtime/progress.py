"""Progress of long work, reported to listeners: a bar, a line, a file for another process.

Progress is reported at most twice a second, and only while there is a listener.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.text import duration

_REPORT_SECONDS = 0.5
_WRITE_SECONDS = 2.0  # many trials may write to one remote storage folder


@dataclass(frozen=True)
class Work:
    """The progress of one piece of work."""

    what: str  # `epoch 3/10`
    done: float
    total: float | None  # None: unknown
    seconds: float  # since this process began it
    seconds_left: float | None = None
    rate: float | None = None  # examples per second
    loss: float | None = None  # mean so far

    @property
    def fraction(self) -> float | None:
        """The completed fraction, in [0, 1]; None: the total is unknown."""
        return None if not self.total else min(1.0, self.done / self.total)

    @property
    def facts(self) -> str:
        """`loss 0.512, 310 examples/s, 2 min left`, without the values that are unknown."""
        parts = [] if self.loss is None else [f"loss {self.loss:.4f}"]
        if self.rate:
            rate = f"{self.rate:,.0f}" if self.rate >= 10 else f"{self.rate:.2g}"
            parts.append(f"{rate} examples/s")
        parts += [] if self.seconds_left is None else [f"{duration(self.seconds_left)} left"]
        return ", ".join(parts)

    def describe(self) -> str:
        """`epoch 3/10: 42 %, loss 0.512, 310 examples/s, 2 min left`."""
        share = f"{self.done:g} done" if self.fraction is None else f"{100 * self.fraction:.0f} %"
        return f"{self.what}: {', '.join(filter(None, (share, self.facts)))}"


Listener = Callable[[Work], None]
_listeners: list[Listener] = []


class Tally:
    """Counts the progress of one piece of work and reports it to the listeners.

    Args:
        total: the final count; None: unknown.
        done: the count that earlier processes have reached.
    """

    def __init__(self, what: str, total: float | None = None, done: float = 0.0) -> None:
        self.what, self.total, self.done = what, total, done
        self._initial, self._num_examples = done, 0
        self._began = self._reported = time.monotonic()
        if _listeners:
            self._report(None)

    def add(
        self, count: float = 1.0, num_examples: int = 0, loss: Callable[[], float] | None = None
    ) -> None:
        """Add `count` to what is done, and report it if the last report is old enough.

        Args:
            loss: called only when progress is reported, because reading a value from a GPU waits.
        """
        self.done += count
        self._num_examples += num_examples
        if _listeners:
            is_over = self.total is not None and self.done >= self.total
            if is_over or time.monotonic() - self._reported >= _REPORT_SECONDS:
                self._report(loss)

    def _report(self, loss: Callable[[], float] | None) -> None:
        self._reported = time.monotonic()
        seconds, counted = self._reported - self._began, self.done - self._initial
        left = None
        if self.total is not None and counted > 0:
            left = seconds * max(0.0, self.total - self.done) / counted
        rate = self._num_examples / seconds if self._num_examples and seconds else None
        value = None if loss is None else loss()
        work = Work(self.what, self.done, self.total, seconds, left, rate, value)
        for listener in _listeners:
            listener(work)


@contextmanager
def report_to(listener: Listener) -> Iterator[None]:
    """Report all work of this process to the listener while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def write_progress(path: Path) -> Iterator[None]:
    """Keep this process's latest progress in the file while the block runs, for other processes."""
    written = -_WRITE_SECONDS

    def write(work: Work) -> None:
        nonlocal written
        if time.monotonic() - written >= _WRITE_SECONDS:
            written = time.monotonic()
            with suppress(OSError):  # on a full disk, the work itself raises the error
                write_atomic(path, json.dumps(asdict(work)), publish=False)

    try:
        with report_to(write):
            yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def read_work(path: Path) -> Work | None:
    """The progress in a file of `write_progress`; None: no file, or not a readable one."""
    try:
        return Work(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
