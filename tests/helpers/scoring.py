"""A scoring server in its own process, and requests to it."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from patience import PATIENCE, wait_until

JSON = {"Content-Type": "application/json"}


@contextlib.contextmanager
def serving(source: str | Path, *options: str) -> Iterator[tuple[int, int]]:
    """Run `ensweep serve` during the block. Yields its port and its process id."""
    command = [sys.executable, "-m", "ensweep", "serve", str(source), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        seen = ""
        for line in process.stderr:
            seen += line
            if match := re.search(r" at http://127\.0\.0\.1:(\d+)/invocations", line):
                yield int(match[1]), process.pid
                break
        else:
            raise AssertionError(seen)
    finally:
        process.terminate()
        process.stderr.close()
        process.wait(PATIENCE)


@contextlib.contextmanager
def plain_server(python: Path, model: Path, port: int, folder: Path) -> Iterator[None]:
    """Run MLflow's own scoring server for a model, as `mlflow models serve` does."""
    environment = {
        **{name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ},
        "__pyfunc_model_path__": str(model),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    app = "mlflow.pyfunc.scoring_server.app:app"
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(
        [str(python), "-m", "uvicorn", "--port", str(port), app],
        cwd=folder,
        env=environment,
        stdout=log,
        stderr=log,
    )
    try:
        log_text = (folder / "server.log").read_text
        wait_until(lambda: process.poll() is not None or _answers(port), log_text)
        assert process.poll() is None, log_text()
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)
        log.close()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        return ask(port, "GET", "/ping")[0] == 200
    return False


def ask(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] = JSON,
) -> tuple[int, str]:
    """Send a request. Return status and body. A body that is not bytes is sent as JSON."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
