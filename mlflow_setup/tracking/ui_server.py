"""Start MLflow's UI over the runs' database, closed to everyone else by default."""

import logging
import os
import sys

from mlflow_setup.errors import ConfigError
from mlflow_setup.tracking.store import ARTIFACTS_FOLDER, Tracking
from mlflow_setup.uris import redact

_LOOPBACK = ("127.0.0.1", "localhost")

_logger = logging.getLogger(__name__)


def run_ui(tracking: Tracking, host: str = "127.0.0.1", port: int = 5000) -> None:
    """Become `mlflow server`: this process is replaced, and Ctrl-C ends it.

    Raises:
        ConfigError: a server already serves the runs, or their database cannot be used.
    """
    command, environment = server_command(tracking, host, port)
    tracking.check()
    if host not in _LOOPBACK:
        _logger.warning("no login: whoever reaches %s can read, change and delete runs", host)
    os.execve(command[0], command, os.environ | environment)


def server_command(
    tracking: Tracking, host: str = "127.0.0.1", port: int = 5000
) -> tuple[list[str], dict[str, str]]:
    """The command and what it needs in its environment, where a database's password goes.

    Requests must be for `host` or this machine's own names (DNS rebinding); pages of other
    origins may not write. One worker, no jobs: it serves a person, not a cluster.

    Raises:
        ConfigError: a server already serves the runs.
    """
    if tracking.is_server:
        raise ConfigError(
            f"the tracking server at {redact(tracking.uri)} has a UI of its own",
            fix=f"open {redact(tracking.uri)} in a browser",
        )
    names = dict.fromkeys([*_LOOPBACK, host])
    command = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", host, "--port", str(port), "--workers", "1"),
        *("--allowed-hosts", ",".join(f"{name},{name}:*" for name in names)),
        *("--cors-allowed-origins", ",".join(f"http://{name}:{port}" for name in names)),
    ]
    if tracking.database is not None:
        artifacts = tracking.database.absolute().parent / ARTIFACTS_FOLDER
        command += ["--artifacts-destination", artifacts.as_uri()]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": tracking.uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return command, environment
