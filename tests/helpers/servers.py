"""A tracking server in a process of its own, and what makes it slow."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from mlflow_setup.server import server_command
from mlflow_setup.tracking import Tracking


class Server:
    """`mlflow server` on an SQLite file, to be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
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
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health"):
                return
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def slowed(port: int, delay: float) -> Iterator[tuple[int, threading.Event]]:
    """A port that leads to `port`, and an event from which on each answer waits `delay` seconds."""
    slow = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):  # the listener is closed
                while True:
                    near, _ = listener.accept()
                    far = socket.create_connection(("127.0.0.1", port))
                    for source, target, waits in ((near, far, False), (far, near, True)):
                        arguments = (source, target, waits)
                        threading.Thread(target=pump, args=arguments, daemon=True).start()

        def pump(source: socket.socket, target: socket.socket, waits: bool) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 16):
                    if waits and slow.is_set():
                        time.sleep(delay)
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], slow
