"""Progress of long work, reported to listeners: a bar, a line, a file for another process.

The work reports at most twice a second, and not at all without a listener; listeners show it.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.text import duration

_TELL_SECONDS = 0.5
_WRITE_SECONDS = 2.0  # a storage folder may be far away, and trials many


@dataclass(frozen=True)
class Work:
    """One piece of work under way."""

    what: str  # `epoch 3/10`
    done: float
    total: float | None  # None: not known
    seconds: float  # since this process began with it
    seconds_left: float | None = None
    rate: float | None = None  # examples a second
    loss: float | None = None  # mean so far

    @property
    def fraction(self) -> float | None:
        """Fraction that is done, in [0, 1]."""
        return None if not self.total else min(1.0, self.done / self.total)

    @property
    def facts(self) -> str:
        """`loss 0.512, 310 examples/s, 2 min left`, as far as it is known."""
        said = [] if self.loss is None else [f"loss {self.loss:.4f}"]
        if self.rate:
            rate = f"{self.rate:,.0f}" if self.rate >= 10 else f"{self.rate:.2g}"
            said.append(f"{rate} examples/s")
        said += [] if self.seconds_left is None else [f"{duration(self.seconds_left)} left"]
        return ", ".join(said)

    def describe(self) -> str:
        """`epoch 3/10: 42 %, loss 0.512, 310 examples/s, 2 min left`."""
        share = f"{self.done:g} done" if self.fraction is None else f"{100 * self.fraction:.0f} %"
        return f"{self.what}: {', '.join(filter(None, (share, self.facts)))}"


Listener = Callable[[Work], None]
_listeners: list[Listener] = []


class Tally:
    """Counts one piece of work, and tells of it.

    Args:
        total: of what is counted; None: not known.
        done: before this process began with it.
    """

    def __init__(self, what: str, total: float | None = None, done: float = 0.0) -> None:
        self.what, self.total, self.done = what, total, done
        self._before, self._num_examples = done, 0
        self._began = self._told = time.monotonic()
        if _listeners:
            self._tell(None)

    def add(
        self, count: float = 1.0, num_examples: int = 0, loss: Callable[[], float] | None = None
    ) -> None:
        """So much more is done.

        Args:
            loss: called only where it is shown: reading one from a GPU waits for the GPU.
        """
        self.done += count
        self._num_examples += num_examples
        if _listeners:
            is_over = self.total is not None and self.done >= self.total
            if is_over or time.monotonic() - self._told >= _TELL_SECONDS:
                self._tell(loss)

    def _tell(self, loss: Callable[[], float] | None) -> None:
        self._told = time.monotonic()
        seconds, counted = self._told - self._began, self.done - self._before
        left = None
        if self.total is not None and counted > 0:
            left = seconds * max(0.0, self.total - self.done) / counted
        rate = self._num_examples / seconds if self._num_examples and seconds else None
        value = None if loss is None else loss()
        work = Work(self.what, self.done, self.total, seconds, left, rate, value)
        for listener in _listeners:
            listener(work)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """While the block lasts, all work of this process is reported to the listener."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """While the block lasts, the newest of this process's work stands in the file, for others."""
    written = -_WRITE_SECONDS

    def write(work: Work) -> None:
        nonlocal written
        if time.monotonic() - written >= _WRITE_SECONDS:
            written = time.monotonic()
            with suppress(OSError):  # a full disk is for the work itself to find
                write_atomic(path, json.dumps(asdict(work)), publish=False)

    try:
        with heard_by(write):
            yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def read_work(path: Path) -> Work | None:
    """What stands in such a file; None: nothing that could be read."""
    try:
        return Work(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
