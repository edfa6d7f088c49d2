"""Who drives a sweep: one process at a time.

`lease.json` names the driver and holds a counter that moves while it lives. Whoever wants to drive
watches the counter on its own clock: wall times of two machines are never compared.
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

from filelock import BaseFileLock, FileLock, Timeout

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.atomic import must_write, write_atomic

LEASE_FILE = "lease.json"
BEAT_SECONDS = 2.0
STALE_SECONDS = 15.0
"""A counter that stood still for so long belongs to a driver that is gone."""


@dataclass(frozen=True)
class Holder:
    """A driver, as its lease tells."""

    host: str
    pid: int
    since: str  # its wall clock, to be shown
    token: str
    counter: int = 0
    namespace: str = ""  # where its process number means something: see `_namespace`

    def describe(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class Lease:
    """The right to drive the sweep in `folder`, held for as long as the block lasts.

    Entering raises ConfigError while another driver lives, or where nothing can be written. Should
    another process take the lease over all the same (this one was frozen, say), `is_lost` is set
    and `on_lost` called, which interrupts the main thread.
    """

    def __init__(
        self, folder: Path, stale_seconds: float = STALE_SECONDS, what: str | None = None
    ) -> None:
        """Args:
        what: is held, in words; None: the sweep of the folder's name.
        """
        self.path, self.stale_seconds = folder / LEASE_FILE, stale_seconds
        self.what = what or f"sweep {folder.name}"
        self.is_lost = False
        self.on_lost: Callable[[], None] = _thread.interrupt_main
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        host, pid, token = socket.gethostname(), os.getpid(), uuid.uuid4().hex
        self.mine = Holder(host, pid, now, token, namespace=_namespace())
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        before = read_lease(self.path)
        if before is not None and not self.is_dead(before):
            before = self.watch(before)
        with must_write(self.path):
            self._take(before)
        self._beating.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._beating.join()
        with suppress(OSError, Timeout), self._exclusively():
            if self._is_mine():  # this process may have stood still while another took over
                self.path.unlink()

    def _exclusively(self) -> BaseFileLock:
        """Lock between reading the lease and writing it: nobody else does."""
        return FileLock(f"{self.path}.lock", timeout=BEAT_SECONDS * 2)

    def _is_mine(self) -> bool:
        found = read_lease(self.path)
        return found is None or found.token == self.mine.token

    def _take(self, before: Holder | None) -> None:
        try:
            with self._exclusively():
                now = read_lease(self.path)
                if now != before:  # another process was quicker to take it over
                    raise refusal(self.what, now)
                write_atomic(self.path, json.dumps(asdict(self.mine)))
        except Timeout:
            raise refusal(self.what, read_lease(self.path)) from None

    def is_dead(self, holder: Holder) -> bool:
        """Known at once where process numbers mean the same only: two containers, or two machines,
        may have one host name."""
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
        """Returns once the counter has stood still for long enough, or the lease was given back."""
        deadline = time.monotonic() + self.stale_seconds
        while time.monotonic() < deadline:
            time.sleep(min(BEAT_SECONDS / 4, self.stale_seconds / 10))
            found = read_lease(self.path)
            if found is None:
                return None
            if found != holder:
                raise refusal(self.what, found)
        return holder

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                with self._exclusively():
                    self.is_lost = not self._is_mine()
                    if not self.is_lost:
                        self.mine = replace(self.mine, counter=self.mine.counter + 1)
                        write_atomic(self.path, json.dumps(asdict(self.mine)))
            except (OSError, Timeout):  # a full disk, say: others may see this driver as gone
                continue
            if self.is_lost:
                self.on_lost()
                return


def _namespace() -> str:
    """This boot of this machine and the namespace of process numbers; "" where the system has no
    names for them."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def living_driver(folder: Path, stale_seconds: float = STALE_SECONDS) -> Holder | None:
    """Who drives the sweep in `folder`; None once that is sure to be nobody."""
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
    """Who holds the lease; None when nobody does, or it is damaged."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def refusal(what: str, holder: Holder | None) -> ConfigError:
    """What a second driver is told of what it wants to drive: `sweep reviews`."""
    who = "another process" if holder is None else holder.describe()
    return ConfigError(
        f"{what} is being run by {who}",
        fix="wait for it, or end it with Ctrl-C, SIGTERM or ensweep stop: it stops cleanly",
    )
