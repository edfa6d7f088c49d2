"""Object stores for tests: in memory, an S3 server in this process, and a faulty one."""

import http.client
import logging
import os
import random
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from obstore.store import MemoryStore

from mlflow_setup.filesystem import object_store, storage
from mlflow_setup.filesystem.atomic import atomic_folder
from mlflow_setup.filesystem.manifest import write_manifest
from mlflow_setup.filesystem.object_store import ObjectStore
from mlflow_setup.filesystem.working_copy import WorkingCopy

URI = "s3://bucket/sweeps"


@dataclass(frozen=True)
class Served:
    """A store that a local server emulates."""

    bucket: str  # its URI
    variable: str  # the environment variable that names the server

    @property
    def url(self) -> str:
        return os.environ[self.variable]


class Machines:
    """Simulates machines that share one store in memory, each with its own working copy."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.memory, self.folder = MemoryStore(), folder
        opened = object_store._open

        def by_scheme(uri: str, *given: Any) -> Any:
            return self.memory if uri.startswith("s3://") else opened(uri, *given)

        monkeypatch.setattr(object_store, "_open", by_scheme)
        monkeypatch.setattr(storage, "_working_copies", {})
        monkeypatch.setenv("ENSWEEP_CACHE", str(folder / "cache"))

    def copy(self, name: str) -> WorkingCopy:
        """The working copy of the machine with that name."""
        root = self.folder / name
        root.mkdir(exist_ok=True)
        copy = WorkingCopy(URI, root.resolve(), ObjectStore(URI))
        storage._working_copies[copy.root] = copy
        return copy

    def next_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on, this process acts as another machine, whose working copy is empty."""
        storage._working_copies.clear()
        monkeypatch.setenv("ENSWEEP_CACHE", str(self.folder / uuid.uuid4().hex))

    def names(self) -> list[str]:
        return sorted(entry["path"] for batch in self.memory.list() for entry in batch)


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Run moto's S3 server with a bucket `bucket`. Yields the environment variables to use it."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # logs a line per request
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
    urllib.request.urlopen(f"{url}/moto-api/reset", b"").close()  # all of a process share a state
    client.create_bucket(Bucket="bucket")
    try:
        yield given
    finally:
        server.stop()


@dataclass
class Request:
    """A request to the proxy."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """A response of the proxy."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Send = Callable[[Request], Answer]
Respond = Callable[[Request, Send], Answer]
"""How a proxy responds; raising ConnectionError drops the connection."""


@contextmanager
def in_front_of(url: str, respond: Respond, *, at_once: bool = False) -> Iterator[str]:
    """Run a proxy in front of the store at `url`. Yields its URL. Unless `at_once`, it forwards one
    request at a time, so that conditional writes are atomic whatever the store does."""
    turn = nullcontext() if at_once else threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, dict(self.headers.items()), body)
            try:
                with turn:
                    answer = respond(request, lambda given: _passed_on(url, given))
            except ConnectionError:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, *_: Any) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)  # a silent client does not block others
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}{urlsplit(url).path}"
    finally:
        proxy.shutdown()
        proxy.server_close()


def _passed_on(url: str, request: Request) -> Answer:
    there = http.client.HTTPConnection(urlsplit(url).netloc)
    there.request(request.method, request.path, request.body, request.headers)
    found = there.getresponse()
    body = found.read()
    skipped = {"connection", "transfer-encoding", "content-length"}
    headers = {name: value for name, value in found.getheaders() if name.lower() not in skipped}
    if request.method == "HEAD":
        headers["Content-Length"] = found.getheader("Content-Length") or "0"
    return Answer(found.status, body, headers)


@contextmanager
def misbehaving(url: str, seed: int, share: float) -> Iterator[tuple[str, Counter[str]]]:
    """Run a proxy that replaces a share of the responses by errors. Yields its URL, and a count of
    the errors."""
    draw, played = random.Random(seed), Counter[str]()
    listed, missed = [""], set[str]()

    def answer(request: Request, send: Send) -> Answer:
        faults = ("500", "503", "429", "slow", "cut", "answer lost", "404", "")
        (fault,) = draw.choices(faults, [share / 7] * 7 + [1 - share])
        if fault == "404":  # once per listed object: 404, as in an eventually consistent store
            name = request.path.partition("/bucket/")[2]
            is_listed = name != "" and f">{name}<" in listed[0]  # no name: a listing
            is_played = is_listed and request.method == "GET" and name not in missed
            missed.update([name] if is_played else [])
            fault = fault if is_played else ""
        played[fault] += 1
        if fault == "cut":
            raise ConnectionAbortedError
        if fault.isdecimal():
            return Answer(int(fault))
        if fault == "slow":
            time.sleep(0.2)
        found = send(request)
        if fault == "answer lost":
            raise ConnectionAbortedError
        if "list" in request.path:
            listed[0] = found.body.decode()
        return found

    with in_front_of(url, answer) as proxy:
        yield proxy, played


def write_folder(folder: Path, *, manifest: bool = True) -> None:
    """Write two files, one in a subfolder, as weights or a checkpoint are written."""
    with atomic_folder(folder) as temporary:
        (temporary / "a").write_text("a")
        (temporary / "below").mkdir()
        (temporary / "below" / "b").write_text("b")
        if manifest:
            write_manifest(temporary, {})
