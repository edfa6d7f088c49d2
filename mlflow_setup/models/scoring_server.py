"""A scoring server with MLflow's interface: its paths, its formats, its errors, bounded.

MLflow's own reads bodies of any size, answers some bad input with status 500 and puts tracebacks
into its answers. This one reads at most so many bytes, answers within so many seconds, and lets
nothing of an error out but its message.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

from mlflow_setup.errors import ConfigError, EnsweepError
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
"""Bytes of a body that are read at most where it is refused."""
_MAX_CONNECTIONS = 512
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

_logger = logging.getLogger(__name__)


class Service(Protocol):
    """A model that answers requests."""

    max_bytes: int

    def answer(self, body: bytes) -> bytes:
        """The answer to a request, JSON both; EnsweepError: it cannot be answered, and why."""

    def describe(self) -> bytes:
        """What may be asked, as OpenAPI's JSON."""


def request_seconds() -> float:
    """How long an answer may take: MLflow's setting, MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT."""
    from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT

    return float(MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections at once; port 0: any that is free.

    Raises:
        ConfigError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen at {host}:{port}: {error}", fix="name another --host or --port"
        ) from None


def run_scoring(service: Service, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    import uvicorn

    warn_of_strangers(*listener.getsockname()[:2])
    uvicorn.Server(server_config(service)).run(sockets=[listener])


def warn_of_strangers(host: str, port: int) -> None:
    """Say so where others than this machine's users can ask."""
    if host not in _LOOPBACK:
        _logger.warning("no login: anyone who can reach %s:%d gets predictions", host, port)


def server_config(service: Service) -> "uvicorn.Config":
    """The server's bounds; what is over them is answered with 503."""
    import uvicorn

    return uvicorn.Config(
        scoring_app(service),
        http="h11",  # bounds headers; httptools, which Ray Serve brings, does not
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
    )


def scoring_app(service: Service) -> App:
    """The ASGI application that asks a service."""
    return _Application(service, request_seconds())


class _Application:
    """One route that predicts, and four of metadata and health; every other request gets a reason
    and a status below 500."""

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
        """What may be asked, or what MLflow answers: its version, or an empty line: all is well."""
        from mlflow.version import VERSION

        if path == OPENAPI:
            return self.service.describe()
        return VERSION.encode() if path == "/version" else b"\n"

    def _refusal(self, scope: Scope) -> tuple[int, bytes] | None:
        """Why a request is not looked into."""
        headers = dict(scope["headers"])
        if scope["path"] not in (INVOCATIONS, *STATE):
            return _problem(404, f"there are {INVOCATIONS}, {', '.join(STATE)}")
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
        return await self._ask(body)

    async def _ask(self, body: bytes) -> tuple[int, bytes]:
        """The service's answer. One that takes too long is not waited for: its thread goes on."""
        work = asyncio.to_thread(self.service.answer, body)
        try:
            return 200, await asyncio.wait_for(work, self.max_seconds)
        except EnsweepError as error:
            return _problem(400, str(error))
        except TimeoutError:
            return _problem(504, "the answer took too long; ask for fewer rows")
        except Exception:  # whatever the model raises is ours, and stays in our log
            _logger.exception("a request failed")
            return _problem(500, "the model failed; the server's log says why")


async def _read(receive: Receive, max_bytes: int) -> bytes | None:
    """The body; None if it is longer. What is too long is read on, up to a limit, and dropped:
    a client that is still sending when its connection closes does not see the answer."""
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
    """A status and an error in the form of MLflow's."""
    code = "INTERNAL_ERROR" if status >= 500 else "BAD_REQUEST"
    return status, json.dumps({"error_code": code, "message": message}).encode()


async def _send(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", _JSON), (b"content-length", str(len(body)).encode())]
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def refused(error: EnsweepError) -> MlflowException:
    """An input's problem as MLflow's own servers answer it: status 400."""
    return MlflowException.invalid_parameter_value(str(error))
