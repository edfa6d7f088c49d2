"""The start of a Ray that is this machine's alone: what has to hold before, and its processes."""

import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private import services
from ray._private.node import Node as RayNode

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import first_line

START_SECONDS = 120
"""What a start may take. Ray's own limit of 30 is too short for a machine that is busy."""
_SESSION_SOCKET = "ray/session_2026-01-31_12-00-00_000000_4194304/sockets/plasma_store"
"""The longest path of a socket, below the folder for temporary files; and Linux's limit, bytes."""
_MAX_SOCKET_PATH = 107
HELPERS = ("start_api_server", "start_monitor", "start_log_monitor")
STARTER = "start_ray_processes"
"""Methods of Ray's node, private: each of the helpers starts a process, and this what is needed."""


def prove_surroundings() -> None:
    """Check that a Ray can start on this machine, where one is to be started.

    Raises:
        ConfigError: the path of its sockets would be too long, or its folder cannot be written.
    """
    if os.environ.get("RAY_ADDRESS") or ray.is_initialized():
        return
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    fix = f"{name}=/tmp, or another short path that can be written to"
    num_bytes = len(os.fsencode(folder / _SESSION_SOCKET))
    if num_bytes > _MAX_SOCKET_PATH:
        raise ConfigError(
            f"{name}={folder}: the paths of Ray's sockets would have {num_bytes} bytes, and a "
            f"socket's path has at most {_MAX_SOCKET_PATH}",
            fix=fix,
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{name}={folder}: cannot be written: {reason}", fix=fix) from None


def start(runtime_env: dict[str, str] | None) -> None:
    """Start one and join it; `runtime_env` is its workers'.

    Raises:
        ConfigError: it cannot be started.
    """
    keep_token_without_home()
    try:
        with _alone_and_patient():
            ray.init(
                "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                runtime_env=runtime_env,
                _node_ip_address="127.0.0.1",  # else a machine without a network has no address
            )
    except Exception as error:  # Ray's own start raises nothing more precise
        raise ConfigError(
            f"no Ray can be started on this machine: {first_line(error)}",
            fix="ray start --head says more; RAY_ADDRESS names a cluster that runs already",
        ) from None


@contextmanager
def _alone_and_patient() -> Iterator[None]:
    """A dashboard, an autoscaler and a reader of logs have nothing to do for a Ray that is this
    machine's alone. Ray starts a process of each all the same, two seconds of a processor, and
    waits for the first. And Ray gives up on a start after 30 seconds, whatever is set."""
    before = {name: getattr(RayNode, name) for name in (*HELPERS, STARTER)}

    def start(node: RayNode, *args: object, **kwargs: object) -> None:
        before[STARTER](node, *args, **kwargs)
        _wait_until_registered(node)

    for name in HELPERS:
        setattr(RayNode, name, lambda *_, **__: None)
    setattr(RayNode, STARTER, start)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(RayNode, name, method)


def _wait_until_registered(node: RayNode, seconds: float = START_SECONDS) -> None:
    """Until the cluster knows a node whose processes have been started, one of them has died, or
    so many seconds are over. Then Ray looks itself, and says what is wrong."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not node.dead_processes():
        try:
            services.get_node(node.gcs_address, node.node_id)
        except RuntimeError:  # not yet
            time.sleep(0.1)
        else:
            return


def keep_token_without_home() -> None:
    """Where the token that guards Ray cannot be stored at home, this process alone knows it."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        return
    try:
        folder = Path.home() / ".ray"
        if (folder / "auth_token").is_file():
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
