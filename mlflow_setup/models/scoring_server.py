"""A scoring server with the paths, formats and errors of MLflow's, and with limits.

MLflow's own server reads bodies of any size, responds to some invalid input with status 500, and
puts tracebacks into responses. This one limits the size of a body and the time of a response, and
reveals only the message of an error.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

from mlflow_setup.errors import EnsweepError
from mlflow_setup.tracking.client import MlflowException

if TYPE_CHECKING:
    import uvicorn

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

INVOCATIONS = "/invocations"
OPENAPI = "/openapi.json"
STATE = ("/ping", "/health", "/version", OPENAPI)
_JSON = b"application/json"
_BODY_SECONDS = 30.0
_MAX_DROPPED = 1 << 24
"""The most bytes that are read of a body that is rejected."""
_MAX_CONNECTIONS = 512
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

_logger = logging.getLogger(__name__)


class Service(Protocol):
    """A model that serves requests."""

    max_bytes: int  # of a request's body

    def answer(self, body: bytes) -> bytes:
        """The response to a request, both JSON. Raises EnsweepError for an invalid request."""

    def describe(self) -> bytes:
        """The OpenAPI description of requests and responses, as JSON."""


def request_seconds() -> float:
    """The time limit of a response in seconds: MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT."""
    from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT

    return float(MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())


def run_scoring(service: Service, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    import uvicorn

    warn_if_public(*listener.getsockname()[:2])
    uvicorn.Server(server_config(service)).run(sockets=[listener])


def warn_if_public(host: str, port: int) -> None:
    """Log a warning if other machines can send requests."""
    if host not in _LOOPBACK:
        _logger.warning("no login: anyone who can reach %s:%d gets predictions", host, port)


def server_config(service: Service) -> "uvicorn.Config":
    """The configuration of uvicorn; connections over the limit get status 503."""
    import uvicorn

    return uvicorn.Config(
        scoring_app(service),
        http="h11",  # limits headers; httptools, which Ray Serve installs, does not
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
    )


def scoring_app(service: Service) -> App:
    """The ASGI application of a service."""
    return _Application(service, request_seconds())


class _Application:
    """One route for predictions, and four for metadata and health; any other request gets a status
    in the 400s and a reason."""

    def __init__(self, service: Service, max_seconds: float) -> None:
        self.service, self.max_seconds = service, max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
        elif scope["path"] in STATE and scope["method"] == "GET":
            await _send(send, 200, self._state(scope["path"]))
        else:
            await _send(send, *await self._answer(scope, receive))

    def _state(self, path: str) -> bytes:
        """The OpenAPI description, MLflow's version, or, for health checks, an empty line."""
        from mlflow.version import VERSION

        if path == OPENAPI:
            return self.service.describe()
        return VERSION.encode() if path == "/version" else b"\n"

    def _refusal(self, scope: Scope) -> tuple[int, bytes] | None:
        """The response to a request with the wrong path, method or headers; None if it has none."""
        headers = dict(scope["headers"])
        if scope["path"] not in (INVOCATIONS, *STATE):
            return _problem(404, f"the paths are {INVOCATIONS}, {', '.join(STATE)}")
        if scope["path"] in STATE or scope["method"] != "POST":
            allowed = "POST" if scope["path"] == INVOCATIONS else "GET"
            return _problem(405, f"{scope['path']} takes {allowed}")
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != _JSON:
            return _problem(415, "send JSON, with Content-Type: application/json")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return _problem(415, "send the body uncompressed")
        return None

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        refusal = self._refusal(scope)
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await _read(receive, 0 if refusal else self.service.max_bytes)
        except TimeoutError:
            return _problem(408, f"the body took longer than {_BODY_SECONDS:.0f} s")
        if refusal is not None:
            return refusal
        if body is None:
            return _problem(413, f"the body is longer than {self.service.max_bytes} bytes")
        return await self._predict(body)

    async def _predict(self, body: bytes) -> tuple[int, bytes]:
        """The service's response. After the time limit it is abandoned; its thread continues."""
        work = asyncio.to_thread(self.service.answer, body)
        try:
            return 200, await asyncio.wait_for(work, self.max_seconds)
        except EnsweepError as error:
            return _problem(400, str(error))
        except TimeoutError:
            return _problem(504, "the answer took too long; ask for fewer rows")
        except Exception:  # an error of the model: its details go to the log only
            _logger.exception("a request failed")
            return _problem(500, "the model failed; the server's log says why")


async def _read(receive: Receive, max_bytes: int) -> bytes | None:
    """The body; None if it is longer than `max_bytes`. A longer body is read and dropped up to a
    limit, because a client that is still sending when its connection closes sees no response."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            chunks.clear()
        else:
            chunks.append(chunk)
        if not message.get("more_body", False) or size > max(max_bytes, _MAX_DROPPED):
            return None if size > max_bytes else b"".join(chunks)


def _problem(status: int, message: str) -> tuple[int, bytes]:
    """A status and an error in MLflow's format."""
    code = "INTERNAL_ERROR" if status >= 500 else "BAD_REQUEST"
    return status, json.dumps({"error_code": code, "message": message}).encode()


async def _send(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", _JSON), (b"content-length", str(len(body)).encode())]
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def refused(error: EnsweepError) -> MlflowException:
    """The error by which MLflow's own servers respond to invalid input with status 400."""
    return MlflowException.invalid_parameter_value(str(error))
