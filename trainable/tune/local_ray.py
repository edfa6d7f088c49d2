"""Starting a Ray instance on this machine only: its preconditions and its processes."""

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
"""Time limit of a start. Ray's own limit of 30 is too short for a busy machine."""
_SESSION_SOCKET = "ray/session_2026-01-31_12-00-00_000000_4194304/sockets/plasma_store"
"""An example of the longest socket path, relative to the folder for temporary files."""
_MAX_SOCKET_PATH = 107
"""Linux's limit of a socket path in bytes."""
HELPERS = ("start_api_server", "start_monitor", "start_log_monitor")
"""Private methods of Ray's node that start processes which are not needed here."""
STARTER = "start_ray_processes"
"""The private method of Ray's node that starts the necessary processes."""


def check_ray_can_start() -> None:
    """Check that Ray can start on this machine, unless RAY_ADDRESS is set or Ray runs already.

    Raises:
        ConfigError: the paths of its sockets would be too long, or its folder cannot be written.
    """
    if os.environ.get("RAY_ADDRESS") or ray.is_initialized():
        return
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    fix = f"set {name}=/tmp, or another short, writable path"
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
    """Start a local Ray instance and connect to it.

    Args:
        runtime_env: Ray's runtime environment for the workers.

    Raises:
        ConfigError: it cannot be started.
    """
    keep_token_without_home()
    try:
        with _without_helpers():
            ray.init(
                "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                runtime_env=runtime_env,
                _node_ip_address="127.0.0.1",  # works without a network
            )
    except Exception as error:  # Ray raises nothing more specific
        raise ConfigError(
            f"Ray cannot be started on this machine: {first_line(error)}",
            fix="run `ray start --head` for details, or set RAY_ADDRESS to a running cluster",
        ) from None


@contextmanager
def _without_helpers() -> Iterator[None]:
    """Patch Ray's node while the block runs: no helper processes, and a longer time limit.

    A local instance needs no dashboard, autoscaler and log monitor, but Ray starts a process for
    each, which takes two seconds of CPU time, and waits for the first. Ray also gives up waiting
    for a node after 30 seconds, which cannot be configured.
    """
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
    """Wait until the cluster knows a started node, one of its processes has died, or the time limit
    is over. Ray then checks the node itself and reports problems."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not node.dead_processes():
        try:
            services.get_node(node.gcs_address, node.node_id)
        except RuntimeError:  # not yet
            time.sleep(0.1)
        else:
            return


def keep_token_without_home() -> None:
    """Set Ray's authentication token in this process's environment if the home folder, where Ray
    would store it, is not writable."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        return
    try:
        folder = Path.home() / ".ray"
        if (folder / "auth_token").is_file():
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
