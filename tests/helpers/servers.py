"""A tracking server in its own process, and a proxy in front of one."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Self

from patience import wait_until
from ports import free_port

from mlflow_setup.tracking.store import Tracking
from mlflow_setup.tracking.ui_server import server_command


class Server:
    """`mlflow server` on an SQLite file, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        tracking = Tracking(f"sqlite:///{folder / 'server.db'}")
        tracking.check()
        self.command, self.environment = server_command(tracking, port=self.port)

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_until(self._answers)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health"):
            return True
        return False

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Proxy:
    """A proxy from one port to another, running during the block.

    Requests are recorded in `heard`; while `slow` is set, each response waits `delay` seconds.
    """

    def __init__(self, target: int, delay: float = 0.0) -> None:
        self.target, self.delay = target, delay
        self.slow, self.heard = threading.Event(), bytearray()

    def __enter__(self) -> Self:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                near, _ = self.listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:  # the server is down
                    near.close()
                    continue
                for way in ((near, far, self._hear), (far, near, self._wait)):
                    threading.Thread(target=_pump, args=way, daemon=True).start()

    def _hear(self, data: bytes) -> None:
        self.heard += data

    def _wait(self, _: bytes) -> None:
        if self.slow.is_set():
            time.sleep(self.delay)


def _pump(source: socket.socket, target: socket.socket, notice: Callable[[bytes], None]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            notice(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
