"""The Ray cluster that trials and workers run on: connecting or starting, nodes, shutdown."""

import gc
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import ray

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import first_line
from mlflow_setup.wheel import PACKAGES
from trainable.tune import local_ray

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the sweep driver shows progress itself
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_gcs_server_port_wait_time_s": str(local_ray.START_SECONDS),
    "RAY_raylet_start_wait_time_s": str(local_ray.START_SECONDS),
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the sweep driver handles signals
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # a stopped trial may be saving
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a trial's outcome has the reason
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own state is not used
}
_GROUP_LABEL = "ray.io/node-group"  # on nodes that an autoscaler starts


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    resources: Mapping[str, float]  # in total, by Ray's names
    group: str | None = None
    """The node type in the cluster's file, which can be scaled up; None: started by hand."""
    id: str = ""

    @property
    def type(self) -> str:
        """The node type for prices."""
        return self.group or "local"

    @property
    def cpus(self) -> float:
        return self.resources.get("CPU", 0.0)

    @property
    def gpus(self) -> float:
        return self.resources.get("GPU", 0.0)

    def num_trials(self, cpus: int, gpus: float) -> int:
        """Number of trials with so many CPUs and GPUs each that fit on it. A fractional GPU is part
        of a single GPU."""
        fits = int(self.cpus // cpus)
        if gpus <= 0:
            return fits
        return min(fits, int(self.gpus // gpus) if gpus >= 1 else int(self.gpus) * int(1 / gpus))


@contextmanager
def environment() -> Iterator[None]:
    """Set Ray's environment variables while the block runs."""
    before = {key: os.environ.get(key) for key in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextmanager
def cluster() -> Iterator[list[Node]]:
    """The nodes of the cluster: the one in use, else the one at RAY_ADDRESS, else a local Ray that
    is started for the block.

    Raises:
        ConfigError: the connection to RAY_ADDRESS fails, or Ray cannot be started on this machine.
    """
    global _background_start
    pending, shut_down = _background_start, _shut_down
    is_ours = pending is not None or not ray.is_initialized()
    address = os.environ.get("RAY_ADDRESS")
    if pending is not None:
        pending.wait()
        shut_down, _background_start = pending.shut_down, None
    elif is_ours and address:
        _connect(address)
    elif is_ours:
        local_ray.check_ray_can_start()
        local_ray.start(_worker_environment())
    try:
        yield alive_nodes()
    finally:
        if is_ours:
            shut_down()


@contextmanager
def starting_ahead() -> Iterator[None]:
    """Start a local Ray in a thread; `cluster`, called in the block, waits for it and raises its
    error. If `cluster` is not called, Ray is shut down at the end of the block.

    Nothing is started if RAY_ADDRESS is set or Ray runs already.
    """
    global _background_start
    if os.environ.get("RAY_ADDRESS") or ray.is_initialized():
        yield
        return
    with environment():
        _background_start = pending = _BackgroundStart()
        try:
            yield
        finally:
            if _background_start is pending:
                _background_start = None
                with suppress(ConfigError):  # it was not used
                    pending.wait()
                    pending.shut_down()


class _BackgroundStart:
    """A local Ray that is started in a thread.

    The thread must run until the shutdown: Ray's processes are set to die with their parent, and
    Linux applies that to the thread that started them.
    """

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._has_started, self._is_over = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="ray-start", daemon=True).start()

    def _run(self) -> None:
        try:
            local_ray.check_ray_can_start()
            local_ray.start(_worker_environment())
        except Exception as error:
            self._error = error
        self._has_started.set()
        self._is_over.wait()

    def wait(self) -> None:
        """Wait until Ray has started. Raises ConfigError if it cannot."""
        self._has_started.wait()
        if self._error is not None:
            self._is_over.set()
            raise self._error

    def shut_down(self) -> None:
        _shut_down()
        self._is_over.set()


_background_start: _BackgroundStart | None = None
"""The local Ray that `cluster` uses."""


def alive_nodes() -> list[Node]:
    """The nodes that are alive in the cluster that this process is connected to."""
    return [
        Node(node["Resources"], node.get("Labels", {}).get(_GROUP_LABEL), node["NodeID"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def _shut_down() -> None:
    """Shut Ray down with garbage collection disabled.

    If another thread's garbage collection frees an object reference during `ray.shutdown`, Ray
    aborts the process.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if was_enabled:
            gc.enable()


def _worker_environment() -> dict[str, str] | None:
    """Ray's runtime environment for workers; None: the default.

    Workers import from the working directory first. If it has a module with the name of one of our
    packages, a setup hook, which delays each worker by a part of a second, makes them import ours.
    """
    here = Path.cwd()
    is_shadowed = any(
        (here / name).exists() and not (here / "ensweep" / "__init__.py").exists()
        for package in PACKAGES
        for name in (package, f"{package}.py")
    )
    return {"worker_process_setup_hook": "ensweep.own_packages"} if is_shadowed else None


def _connect(address: str) -> None:
    fix = "start the cluster, or unset RAY_ADDRESS to run on this machine"
    place = re.fullmatch(r"([^:/]+):(\d+)", address)
    try:
        if place is not None:  # fail fast: Ray would try for minutes
            socket.create_connection((place[1], int(place[2])), timeout=10).close()
        ray.init(log_to_driver=False, logging_level="error", runtime_env=_worker_environment())
    except Exception as error:  # Ray raises nothing more specific
        reason = first_line(error)
        raise ConfigError(f"RAY_ADDRESS={address}: {reason}", fix=fix) from None
