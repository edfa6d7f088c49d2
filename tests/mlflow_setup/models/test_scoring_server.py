"""The scoring server's limits on time and size, with a fake bundle."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from scoring import JSON, ask

from mlflow_setup.errors import DataError
from mlflow_setup.models import scoring_server as scoring
from mlflow_setup.tracking.ui_server import listen

BODY = json.dumps({"dataframe_split": {"columns": ["sentence"], "data": [["a film"]]}}).encode()


class Slow:
    """A service that responds once it is allowed to."""

    max_bytes = 10_000

    def __init__(self) -> None:
        self.may_continue, self.ended = threading.Event(), threading.Event()

    def answer(self, body: bytes) -> bytes:
        self.may_continue.wait(30)
        self.ended.set()
        return b'{"predictions": [{"label": 3}]}'

    def describe(self) -> bytes:
        return b"{}"


@pytest.fixture
def service() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.may_continue.set()


async def _post(service: Slow, messages: list[dict[str, Any]]) -> tuple[int, Any]:
    """The status and the body of the response to a body in parts, after which none arrives."""
    scope = {
        **{"type": "http", "method": "POST", "path": "/invocations", "query_string": b""},
        "headers": [(b"content-type", b"application/json")],
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.sleep(30)
        raise AssertionError("no limit on the time to receive the body")

    async def send(message: Any) -> None:
        sent.append(message)

    await scoring.scoring_app(service)(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_a_body_that_does_not_arrive_is_answered_with_408(
    service: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_BODY_SECONDS", 0.05)
    part = {"type": "http.request", "body": BODY[:5], "more_body": True}
    status, answer = asyncio.run(_post(service, [part]))
    assert (status, answer["error_code"]) == (408, "BAD_REQUEST")
    assert "the body took longer than" in answer["message"]


def test_a_prediction_that_takes_too_long_is_answered_with_504(
    service: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "1")
    assert scoring.request_seconds() == 1.0
    request = {"type": "http.request", "body": BODY, "more_body": False}

    async def post() -> tuple[int, Any]:
        answer = await _post(service, [request])
        assert not service.ended.is_set()  # the response does not wait for the work
        service.may_continue.set()
        return answer

    status, answer = asyncio.run(post())
    assert (status, answer["error_code"]) == (504, "INTERNAL_ERROR")
    assert "ask for fewer rows" in answer["message"]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (DataError("row 2: no text"), 400, "row 2: no text"),
        (TimeoutError("the requests before it took too long"), 504, "ask for fewer rows"),
        (RuntimeError("weights at /secret/folder"), 500, "the server's log says why"),
        (MemoryError(), 500, "the server's log says why"),
    ],
)
def test_a_response_has_only_the_message_of_an_error(
    service: Slow,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    message: str,
) -> None:
    def fail(body: bytes) -> bytes:
        raise error

    monkeypatch.setattr(service, "answer", fail)
    request = {"type": "http.request", "body": BODY, "more_body": False}
    found, answer = asyncio.run(_post(service, [request]))
    assert found == status
    assert message in answer["message"]
    assert "secret" not in json.dumps(answer)
    assert ("Traceback" in caplog.text) is (status == 500)  # only in our log


def test_startup_and_shutdown_events_are_acknowledged(service: Slow) -> None:
    events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> Any:
        return events.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(scoring.scoring_app(service)({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@contextmanager
def _running(service: Slow) -> Iterator[int]:
    """Run the server in a thread. Yields its port."""
    import uvicorn

    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(scoring.server_config(service))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
        listener.close()


def test_too_many_connections_are_answered_with_503(
    service: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_MAX_CONNECTIONS", 3)
    with _running(service) as port:
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        while (status := ask(port, "GET", "/ping")[0]) == 200:  # until all three are in use
            time.sleep(0.01)
        assert status == 503
        for connection in idle:
            connection.close()
        service.may_continue.set()
        while (answer := ask(port, "POST", "/invocations", BODY, JSON))[0] == 503:
            time.sleep(0.01)  # until the server notices that they are closed
        assert answer == (200, '{"predictions": [{"label": 3}]}')
