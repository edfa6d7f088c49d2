"""The Ray cluster that trials and workers run on: found or started, its nodes, and its shutdown."""

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
    "RAY_AIR_NEW_OUTPUT": "0",  # progress is shown here
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_gcs_server_port_wait_time_s": str(local_ray.START_SECONDS),
    "RAY_raylet_start_wait_time_s": str(local_ray.START_SECONDS),
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are the sweep driver's
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # a stopped trial may be in the middle of a save
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the reason is in the trial's outcome
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # nothing of Tune's own state is read back
}
_GROUP_LABEL = "ray.io/node-group"  # on nodes that an autoscaler starts


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: all of its resources, by Ray's names."""

    resources: Mapping[str, float]
    group: str | None = None
    """Its type in the cluster's file, of which there may be more later; None: started by hand."""
    id: str = ""

    @property
    def type(self) -> str:
        """The name under which prices are given for it."""
        return self.group or "local"

    @property
    def cpus(self) -> float:
        return self.resources.get("CPU", 0.0)

    @property
    def gpus(self) -> float:
        return self.resources.get("GPU", 0.0)

    def num_trials(self, cpus: int, gpus: float) -> int:
        """Trials that fit on it, each with so many CPUs and GPUs. A trial does not span GPUs of
        which it has a fraction."""
        fits = int(self.cpus // cpus)
        if gpus <= 0:
            return fits
        return min(fits, int(self.gpus // gpus) if gpus >= 1 else int(self.gpus) * int(1 / gpus))


@contextmanager
def environment() -> Iterator[None]:
    """Settings of Ray's that are environment variables, for as long as the sweep runs."""
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
    """The nodes of the cluster at RAY_ADDRESS, of the one in use, or this machine.

    Raises:
        ConfigError: nothing answers at RAY_ADDRESS, or what does is no cluster for this driver; or
            this machine's surroundings are not such that a Ray can start.
    """
    global _ahead
    ahead, shut_down = _ahead, _shut_down
    ours, address = ahead is not None or not ray.is_initialized(), os.environ.get("RAY_ADDRESS")
    if ahead is not None:
        ahead.wait()
        shut_down, _ahead = ahead.shut_down, None
    elif ours and address:
        _join(address)
    elif ours:
        local_ray.prove_surroundings()
        local_ray.start(_worker_environment())
    try:
        yield alive_nodes()
    finally:
        if ours:
            shut_down()


@contextmanager
def starting_ahead() -> Iterator[None]:
    """Start this machine's Ray in a thread, for a `cluster` within the block: that waits for it
    and raises its error. A Ray that no `cluster` used is shut down at the end.

    Nothing is started where RAY_ADDRESS names a cluster, or one is in use.
    """
    global _ahead
    if os.environ.get("RAY_ADDRESS") or ray.is_initialized():
        yield
        return
    with environment():
        _ahead = ahead = _Ahead()
        try:
            yield
        finally:
            if _ahead is ahead:
                _ahead = None
                with suppress(ConfigError):  # it is not needed any more
                    ahead.wait()
                    ahead.shut_down()


class _Ahead:
    """A Ray that is starting in a thread. The thread outlives it: Linux ends Ray's processes, which
    are to die with their driver, with the thread that has started them."""

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._has_started, self._is_over = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="ray-start", daemon=True).start()

    def _run(self) -> None:
        try:
            local_ray.prove_surroundings()
            local_ray.start(_worker_environment())
        except Exception as error:
            self._error = error
        self._has_started.set()
        self._is_over.wait()

    def wait(self) -> None:
        """Until it has started. Raises ConfigError when it cannot."""
        self._has_started.wait()
        if self._error is not None:
            self._is_over.set()
            raise self._error

    def shut_down(self) -> None:
        _shut_down()
        self._is_over.set()


_ahead: _Ahead | None = None
"""The one that `cluster` takes."""


def alive_nodes() -> list[Node]:
    """The nodes of the cluster that this process has joined, as they are now."""
    return [
        Node(node["Resources"], node.get("Labels", {}).get(_GROUP_LABEL), node["NodeID"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def _shut_down() -> None:
    """Leave the cluster while no other thread frees what belongs to Ray.

    Another thread's garbage collection in the middle of `ray.shutdown` may free an object
    reference, for which Ray ends the process at once.
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
    """Workers import from this working directory first: where it has a module with the name of one
    of our packages, a hook makes them import ours. It costs each worker a part of a second."""
    here = Path.cwd()
    is_shadowed = any(
        (here / name).exists() and not (here / "ensweep" / "__init__.py").exists()
        for package in PACKAGES
        for name in (package, f"{package}.py")
    )
    return {"worker_process_setup_hook": "ensweep.own_packages"} if is_shadowed else None


def _join(address: str) -> None:
    fix = "start the cluster, or unset RAY_ADDRESS to run on this machine"
    place = re.fullmatch(r"([^:/]+):(\d+)", address)
    try:
        if place is not None:  # Ray would try for minutes
            socket.create_connection((place[1], int(place[2])), timeout=10).close()
        ray.init(log_to_driver=False, logging_level="error", runtime_env=_worker_environment())
    except Exception as error:  # as in `_start`
        reason = first_line(error)
        raise ConfigError(f"RAY_ADDRESS={address}: {reason}", fix=fix) from None
