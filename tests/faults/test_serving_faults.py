"""S10, S2: malformed and concurrent requests to a served model, and changed bundles."""

import json
import random
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from fault_table import Table
from patience import PATIENCE
from scale import SCALE
from scoring import JSON, ask, serving
from typer.testing import CliRunner

from ensemble.bundle.format import verify
from ensweep.cli.app import app
from mlflow_setup.errors import IntegrityError

NUM_MALFORMED = 200 * SCALE
NUM_AT_ONCE = 100
NUM_FLIPS = 100 * SCALE
MAX_BYTES = 50_000
GROWTH = 60_000_000  # bytes, for the allocator and threads

GOOD = {"dataframe_records": [{"sentence": "the film is good"}], "params": {"task": "sentiment"}}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[tuple[int, int]]:
    """The port and process id of `ensweep serve`."""
    with serving(tiny_bundle, "--max-bytes", str(MAX_BYTES), "--max-rows", "20") as found:
        yield found


Draw = random.Random
Request = tuple[str, str, bytes, dict[str, str]]


def _post(body: bytes, content_type: str = JSON["Content-Type"]) -> Request:
    return "POST", "/invocations", body, {"Content-Type": content_type}


def _cut(draw: Draw) -> Request:
    whole = json.dumps(GOOD).encode()
    return _post(whole[: draw.randrange(len(whole))])


def _noise(draw: Draw) -> Request:
    return _post(draw.randbytes(draw.randrange(2000)))


def _wrong_value(draw: Draw) -> Request:
    value = draw.choice([None, 5, -1e308, True, [], {}, [["a"]], "", " ", "\ud800", "x" * 10_001])
    return _post(json.dumps({"dataframe_records": [{"sentence": value}]}).encode())


def _wrong_shape(draw: Draw) -> Request:
    content: Any = draw.choice([None, 5, "text", [], {}, [[]], [5], [{}], {"columns": []}])
    name = draw.choice(["dataframe_records", "dataframe_split", "instances", "inputs", "messages"])
    return _post(json.dumps({name: content}).encode())


def _wrong_task(draw: Draw) -> Request:
    task = draw.choice(["none", "", "similarity", 5, [], {"a": 1}, "../..", "\0", "x" * 1000])
    return _post(json.dumps({**GOOD, "params": {"task": task}}).encode())


def _deep(draw: Draw) -> Request:
    bracket = draw.choice([b"[", b'{"inputs":'])
    return _post(bracket * draw.randrange(1000, 4000))


def _too_many(draw: Draw) -> Request:
    rows = GOOD["dataframe_records"] * draw.randrange(21, 500)  # type: ignore[operator]
    return _post(json.dumps({"dataframe_records": rows}).encode())


def _too_long(draw: Draw) -> Request:
    return _post(b"x" * (MAX_BYTES + draw.randrange(1, 3_000_000)))


def _wrong_type(draw: Draw) -> Request:
    types = ["text/csv", "text/plain", "", "application/x-pickle", "application/vnd.apache.parquet"]
    return _post(b"sentence\na\n", draw.choice(types))


def _wrong_coding(draw: Draw) -> Request:
    method, path, body, headers = _post(draw.randbytes(100))
    return method, path, body, headers | {"Content-Encoding": draw.choice(["gzip", "br"])}


def _wrong_place(draw: Draw) -> Request:
    path = draw.choice(["/", "/docs", "/openapi.json", "/invocations/", "/../etc/passwd", "/ping"])
    return draw.choice(["POST", "PUT", "DELETE"]), path, b"{}", JSON


def _wrong_method(draw: Draw) -> Request:
    return draw.choice(["GET", "PUT", "PATCH", "DELETE"]), "/invocations", b"", JSON


MALFORMED: list[Callable[[Draw], Request]] = [
    *(_cut, _noise, _wrong_value, _wrong_shape, _wrong_task, _deep),
    *(_too_many, _too_long, _wrong_type, _wrong_coding, _wrong_place, _wrong_method),
]


@pytest.mark.promise(
    "S10", "malformed requests to a served model", "none of status 5xx, no traceback; memory flat"
)
def test_s10_malformed_requests_are_refused(server: tuple[int, int], table: Table) -> None:
    port, pid = server
    table.played(NUM_MALFORMED)
    before = psutil.Process(pid).memory_info().rss
    seen: Counter[int] = Counter()
    for number in range(NUM_MALFORMED):
        make = MALFORMED[number % len(MALFORMED)]
        status, body = ask(port, *make(random.Random(number)))
        assert 400 <= status < 500, (make.__name__, number, status, body)
        assert "Traceback" not in body
        assert 'File "' not in body
        assert json.loads(body)["message"], make.__name__
        seen[status] += 1
    assert set(seen) == {400, 404, 405, 413, 415}
    assert ask(port, "POST", "/invocations", GOOD)[0] == 200
    growth = psutil.Process(pid).memory_info().rss - before
    table.measured("the server grew by", [max(0, growth) / 1e6], unit="MB", within=GROWTH / 1e6)
    assert growth < GROWTH


@pytest.mark.promise(
    "S10", "100 requests at once, a quarter malformed", "the valid ones get equal answers"
)
def test_s10_concurrent_requests_get_equal_answers(server: tuple[int, int], table: Table) -> None:
    port, pid = server
    table.played(NUM_AT_ONCE * min(SCALE, 10))
    expected = ask(port, "POST", "/invocations", GOOD)
    before = psutil.Process(pid).memory_info().rss

    def one(number: int) -> tuple[int, str]:
        draw = random.Random(number)
        if number % 4 == 0:
            return ask(port, *MALFORMED[number // 4 % len(MALFORMED)](draw))
        return ask(port, "POST", "/invocations", GOOD)

    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        answers = list(pool.map(one, range(NUM_AT_ONCE * min(SCALE, 10))))
    assert all(answer == expected for number, answer in enumerate(answers) if number % 4)
    assert all(400 <= status < 500 for status, _ in answers[::4])
    assert psutil.Process(pid).memory_info().rss - before < GROWTH


@pytest.mark.promise("S10", "invalid HTTP", "refused; the server goes on")
@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /invocations HTTP/9.9\r\nHost: x\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /ping HTTP/1.1\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
)
def test_s10_invalid_http_is_refused(server: tuple[int, int], request_: bytes) -> None:
    port, _ = server
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        try:
            connection.sendall(request_)
            answer = connection.recv(4096)
        except ConnectionError:
            answer = b""
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer
    assert b"Traceback" not in answer
    assert ask(port, "GET", "/ping")[0] == 200


def test_s10_a_chunked_body_is_limited(server: tuple[int, int]) -> None:
    port, _ = server
    head = (
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(head + chunk * (2 * MAX_BYTES // 4096) + b"0\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_missing_bundle_is_reported(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="there is no such folder"):
        CliRunner().invoke(
            app, ["serve", str(tmp_path / "none"), "--port", "0"], catch_exceptions=False
        )


@pytest.mark.promise(
    "S2", "a flipped bit in any file of a bundle, its code included", "refused, exit 6"
)
def test_s2_a_flipped_bit_of_a_bundle_is_refused(
    tiny_bundle: Path, tmp_path: Path, table: Table
) -> None:
    table.played(NUM_FLIPS)
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert any(path.suffix == ".whl" for path in files)
    draw = random.Random(0)
    for number in range(NUM_FLIPS):
        path = files[number % len(files)]
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(IntegrityError) as caught:
            verify(folder)
        assert caught.value.exit_code == 6
        path.write_bytes(whole)
    verify(folder)


@pytest.mark.promise("S2", "a file added to a bundle, also to its manifest", "refused")
@pytest.mark.parametrize("name", ["extra.sh", "wheel/evil.py", "wheel/other-1-py3-none-any.whl"])
def test_s2_an_added_file_is_refused(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    """Whether or not the manifest contains it."""
    from ensemble.bundle.format import FACTS, Bundle
    from mlflow_setup.filesystem.manifest import MANIFEST, write_manifest

    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (folder / name).write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"not in manifest\.json"):
        Bundle.load(folder)
    (folder / MANIFEST).unlink()
    write_manifest(folder, FACTS)
    with pytest.raises(IntegrityError, match="is not part of it"):
        Bundle.load(folder)
