"""Start MLflow's UI for the runs' database, by default reachable from this machine only."""

import logging
import os
import socket
import sys

import psutil

from mlflow_setup.errors import ConfigError
from mlflow_setup.tracking.store import ARTIFACTS_FOLDER, Tracking
from mlflow_setup.uris import redact

_LOOPBACK = ("127.0.0.1", "localhost")
_EVERYWHERE = ("0.0.0.0", "::")

_logger = logging.getLogger(__name__)


def run_ui(tracking: Tracking, host: str = "127.0.0.1", port: int = 5000) -> None:
    """Replace this process by `mlflow server`, which Ctrl-C ends.

    Raises:
        ConfigError: the runs are on a server already, their database cannot be used, or the
            address is in use or not available.
    """
    command, environment = server_command(tracking, host, port)
    tracking.check()
    listen(host, port).close()
    if host not in _LOOPBACK:
        _logger.warning("no login: anyone who can reach %s can read, change and delete runs", host)
    os.execve(command[0], command, os.environ | environment)


def server_command(
    tracking: Tracking, host: str = "127.0.0.1", port: int = 5000
) -> tuple[list[str], dict[str, str]]:
    """The command, and its environment variables, which hide a database's password from `ps`.

    Requests must name `host` or this machine (against DNS rebinding), and pages of other origins
    may not write. One worker and no jobs: the UI is for one person.

    Raises:
        ConfigError: the runs are on a server already.
    """
    if tracking.is_server:
        raise ConfigError(
            f"the tracking server at {redact(tracking.uri)} has its own UI",
            fix=f"open {redact(tracking.uri)} in a browser",
        )
    names = dict.fromkeys([*_LOOPBACK, host, *own_names(host)])
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


def own_names(host: str) -> list[str]:
    """This machine's names and addresses if `host` means all of them (`0.0.0.0`, `::`); else
    none."""
    if host not in _EVERYWHERE:
        return []
    name, names = socket.gethostname(), set()
    for address in (each for listed in psutil.net_if_addrs().values() for each in listed):
        if address.family == socket.AF_INET:
            names.add(address.address)
        elif address.family == socket.AF_INET6:
            names.add(f"[{address.address.partition('%')[0]}]")
    return [*dict.fromkeys([name, socket.getfqdn(), f"{name}.local", *sorted(names)])]


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free port.

    Raises:
        ConfigError: the address is in use or not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen at {host}:{port}: {error}", fix="name another --host or --port"
        ) from None
