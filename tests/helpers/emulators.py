"""Azure's blob store, emulated by azurite from npm (`make azurite`) in its own process."""

import base64
import hashlib
import hmac
import http.client
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
from patience import PATIENCE
from ports import free_port

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account key of every azurite, not a secret."""
_VERSION = "2021-08-06"


@contextmanager
def azurite(folder: Path) -> Iterator[dict[str, str]]:
    """Run azurite with a container `bucket`. Yields the environment variables to use it.

    Args:
        folder: for azurite's files.
    """
    program = shutil.which("azurite-blob", path=os.environ.get("ENSWEEP_AZURITE"))
    program = program or shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not installed: make azurite")
    port = free_port()
    words = ["--blobPort", str(port), "--location", str(folder), "--silent", "--disableTelemetry"]
    process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL)
    try:
        _make_container(port)
        yield {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/{ACCOUNT}",
        }
    finally:
        process.terminate()
        process.wait()


def _make_container(port: int) -> None:
    """Wait for the server, and create the container by a request that is signed by hand, because no
    installed library can."""
    deadline = time.monotonic() + PATIENCE
    given = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _VERSION}
    lines = [f"{name}:{value}" for name, value in given.items()]
    text = (
        "PUT" + "\n" * 12 + "\n".join([*lines, f"/{ACCOUNT}/{ACCOUNT}/bucket", "restype:container"])
    )
    signed = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    given["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signed).decode()}"
    while True:
        try:
            there = http.client.HTTPConnection("127.0.0.1", port)
            there.request("PUT", f"/{ACCOUNT}/bucket?restype=container", headers=given)
            assert there.getresponse().status == 201
            return
        except ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
