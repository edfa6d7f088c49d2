"""The Ray cluster that trials and workers run on: found or started, its nodes, an orderly end."""

import gc
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import first_line

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # progress is shown here
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
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

    @property
    def type(self) -> str:
        """As prices are given for it."""
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
        ConfigError: nothing answers at RAY_ADDRESS, or what does is no cluster for this driver.
    """
    ours, address = not ray.is_initialized(), os.environ.get("RAY_ADDRESS")
    if ours and address:
        _join(address)
    elif ours:
        ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield [
            Node(node["Resources"], node.get("Labels", {}).get(_GROUP_LABEL))
            for node in ray.nodes()
            if node["Alive"]
        ]
    finally:
        if ours:
            _shut_down()


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


def _join(address: str) -> None:
    fix = "start the cluster, or unset RAY_ADDRESS to run on this machine"
    place = re.fullmatch(r"([^:/]+):(\d+)", address)
    try:
        if place is not None:  # Ray would try for minutes
            socket.create_connection((place[1], int(place[2])), timeout=10).close()
        ray.init(log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise ConfigError(f"RAY_ADDRESS={address}: {reason}", fix=fix) from None
