"""Leases: at most one process at a time runs a sweep or a trial.

`lease.json` names the holder, and has a counter that the holder increments while it runs. A process
that wants the lease watches the counter by its own clock: the clocks of two machines are never
compared.
"""

import _thread
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from filelock import Timeout

from mlflow_setup.errors import STOPPED, ConfigError
from mlflow_setup.filesystem.atomic import must_write
from mlflow_setup.filesystem.cells import cell_of

LEASE_FILE = "lease.json"
BEAT_SECONDS = 2.0
STALE_SECONDS = 15.0
"""A holder whose counter has not changed for this long is taken for dead."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease."""

    host: str
    pid: int
    since: str  # local time on its machine, for display
    token: str
    counter: int = 0
    namespace: str = ""  # in which its process id is valid: see `_namespace`

    def describe(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class Lease:
    """The exclusive right to run the sweep in `folder`, held while the block runs.

    Entering raises ConfigError while another holder is alive, or if the lease cannot be written. If
    another process takes the lease over (because this one was frozen, for example), `is_lost` is
    set and `on_lost` is called, which by default interrupts the main thread.
    """

    def __init__(
        self,
        folder: Path,
        stale_seconds: float = STALE_SECONDS,
        what: str | None = None,
        file: str = LEASE_FILE,
    ) -> None:
        """Args:
        what: what the lease is for, as error messages name it; None: `sweep FOLDER`.
        """
        self.path, self.stale_seconds = folder / file, stale_seconds
        self.cell = cell_of(self.path)
        self.what = what or f"sweep {folder.name}"
        self.is_lost = False
        self._mark: str | None = None  # version mark of the cell as last written
        self.on_lost: Callable[[], None] = _thread.interrupt_main
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        host, pid, token = socket.gethostname(), os.getpid(), uuid.uuid4().hex
        self.mine = Holder(host, pid, now, token, namespace=_namespace())
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        before, _ = self._find()
        if before is not None and not self.is_dead(before):
            before = self.watch(before)
        with must_write(self.path):
            self._take(before)
        self._beating.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._beating.join()
        with suppress(OSError):
            holder, mark = self._find()
            if self._is_mine(holder):  # another may have taken over while this process was frozen
                self.cell.swap(mark, "")

    def _find(self) -> tuple[Holder | None, str | None]:
        """The holder, and the version mark of the cell."""
        text, mark = self.cell.read()
        return _holder(text), mark

    def _is_mine(self, holder: Holder | None) -> bool:
        return holder is None or holder.token == self.mine.token

    def _take(self, before: Holder | None) -> None:
        now, mark = self._find()
        try:
            self._mark = self.cell.swap(mark, self._text()) if now == before else None
        except Timeout:
            self._mark = None
        if self._mark is None:  # another process took it first
            raise refusal(self.what, self._find()[0])

    def _text(self) -> str:
        return json.dumps(asdict(self.mine))

    def is_dead(self, holder: Holder) -> bool:
        """Whether the holder is known to be dead. Only a holder in the same process namespace can
        be checked: two containers, or two machines, may have the same host name."""
        if not holder.namespace or holder.namespace != self.mine.namespace:
            return False
        try:
            os.kill(holder.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def watch(self, holder: Holder) -> Holder | None:
        """Wait until the lease is stale, and return its holder; None if it was released. Raises
        ConfigError as soon as the counter moves."""
        deadline = time.monotonic() + self.stale_seconds
        while time.monotonic() < deadline:
            time.sleep(min(BEAT_SECONDS / 4, self.stale_seconds / 10))
            current, _ = self._find()
            if current is None:
                return None
            if current != holder:
                raise refusal(self.what, current)
        return holder

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                self.mine = replace(self.mine, counter=self.mine.counter + 1)
                mark = self.cell.swap(self._mark, self._text())
                if mark is None:
                    holder, mark = self._find()
                    self.is_lost = not self._is_mine(holder)
                self._mark = mark
            except OSError:  # e.g. a full disk; others may now take this process for dead
                continue
            if self.is_lost:
                self.on_lost()
                return


def _namespace() -> str:
    """Identifies the boot of this machine and its PID namespace; "" if the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def running_driver(folder: Path, stale_seconds: float = STALE_SECONDS) -> Holder | None:
    """The process that runs the sweep in `folder`; None if there is none. Takes up to
    `stale_seconds`."""
    lease = Lease(folder, stale_seconds)
    holder = read_lease(lease.path)
    if holder is None or lease.is_dead(holder):
        return None
    try:
        lease.watch(holder)
    except ConfigError:
        return read_lease(lease.path)
    return None


def read_lease(path: Path) -> Holder | None:
    """The holder that the lease names; None if there is no lease, or it is damaged."""
    return _holder(cell_of(path).read()[0])


def _holder(text: str) -> Holder | None:
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def refusal(what: str, holder: Holder | None) -> ConfigError:
    """The error for a lease that another process holds; `what` is for example `sweep reviews`."""
    who = "another process" if holder is None else holder.describe()
    return ConfigError(
        f"{what} is being run by {who}",
        fix="wait for it, or end it with Ctrl-C, SIGTERM or ensweep stop: it stops cleanly",
    )


class LeaseLock:
    """A lock across machines, by a lease at `path`.

    A process that loses the lease, having been taken for dead, exits at once, because another
    process may now write the same files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lease: Lease | None = None

    def acquire(self, timeout: float) -> None:
        """Raises filelock.Timeout if another process still holds it after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            lease = Lease(self.path.parent, what=self.path.name, file=self.path.name)
            lease.on_lost = lambda: os._exit(STOPPED)
            try:
                self._lease = lease.__enter__()
                return
            except ConfigError:
                if time.monotonic() >= deadline:
                    raise Timeout(str(self.path)) from None
                time.sleep(BEAT_SECONDS / 4)

    def release(self) -> None:
        if self._lease is not None:
            self._lease.__exit__()
            self._lease = None
