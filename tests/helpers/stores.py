"""Object stores for tests: in memory, S3 by a server of this process, one that misbehaves."""

import http.client
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from obstore.store import MemoryStore

from mlflow_setup.filesystem import object_store, storage
from mlflow_setup.filesystem.object_store import ObjectStore
from mlflow_setup.filesystem.working_copy import WorkingCopy

URI = "s3://bucket/sweeps"


class Machines:
    """Machines that share one store in memory, each with a working copy of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.memory, self.folder = MemoryStore(), folder
        monkeypatch.setattr(object_store, "_open", lambda uri, *_: self.memory)
        monkeypatch.setattr(storage, "_copies", {})
        monkeypatch.setenv("ENSWEEP_CACHE", str(folder / "cache"))

    def copy(self, name: str) -> WorkingCopy:
        """What the machine of that name sees."""
        root = self.folder / name
        root.mkdir(exist_ok=True)
        copy = WorkingCopy(URI, root.resolve(), ObjectStore(URI))
        storage._copies[copy.root] = copy
        return copy

    def names(self) -> list[str]:
        return sorted(entry["path"] for batch in self.memory.list() for entry in batch)


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """S3 by moto, with a bucket `bucket`: what the environment has to say to use it."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server: Any = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    given = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="bucket")
    try:
        yield given
    finally:
        server.stop()


@contextmanager
def misbehaving(
    url: str, seed: int, share: float, drops: Collection[str] = ()
) -> Iterator[tuple[str, Counter[str]]]:
    """A proxy before the store at `url` that serves one request at a time, so that a condition and
    its write are one step; and, of a share of the requests, errors in their place. Its own URL, and
    a count of the errors.

    Args:
        drops: headers that it does not hand on, in lower case.
    """
    draw, played = random.Random(seed), Counter[str]()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            faults = ("500", "503", "429", "slow", "cut", "answer lost", "")
            weights = [share / 6] * 6 + [1 - share]
            (fault,) = draw.choices(faults, weights)
            played[fault] += 1
            body = self.rfile.read(length // 2 if fault == "cut" else length)
            if fault == "cut":
                self.close_connection = True
                return
            if fault.isdecimal():
                self.send_response(int(fault))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "slow":
                time.sleep(0.2)
            kept = {name: text for name, text in self.headers.items() if name.lower() not in drops}
            there = http.client.HTTPConnection(urlsplit(url).netloc)
            there.request(self.command, self.path, body, kept)
            found = there.getresponse()
            content = found.read()
            if fault == "answer lost":
                self.close_connection = True
                return
            self.send_response(found.status)
            for name, value in found.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            size = found.getheader("Content-Length") if self.command == "HEAD" else len(content)
            self.send_header("Content-Length", str(size or 0))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", played
    finally:
        server.shutdown()
        server.server_close()
