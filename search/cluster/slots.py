"""The Ray cluster of a sweep: found or started, how many trials fit, and an orderly end."""

import gc
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from mlflow_setup.errors import ConfigError
from mlflow_setup.text import first_line
from search.config.sweep_config import Budget, Resources

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # progress is shown here
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are `search.driver.stop_switch`'s
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


@dataclass(frozen=True)
class Slots:
    """What a trial gets, and how many run at a time."""

    gpus_per_trial: float
    max_concurrent_trials: int


def find_slots(resources: Resources, nodes: Sequence[Node]) -> Slots:
    """Fit trials into a cluster of these nodes: each runs on one of them.

    Raises:
        ConfigError: not one trial fits, and no number of trials was asked for; or nobody has said
            whether trials need GPUs, and a cluster that grows has none yet.
    """
    cpus, gpus = resources.cpus_per_trial, resources.gpus_per_trial
    if gpus is None:
        gpus = _default_gpus(nodes)
    if resources.max_concurrent_trials is not None:
        return Slots(gpus, resources.max_concurrent_trials)
    fits = sum(node.num_trials(cpus, gpus) for node in nodes)
    if fits < 1:
        sizes = Counter(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in nodes)
        has = ", ".join(f"{count} x {size}" for size, count in sizes.items())
        raise ConfigError(
            f"resources: a trial needs {cpus} CPUs and {gpus:g} GPUs on one node; the cluster has "
            f"{has or 'no node'}",
            fix="lower resources.cpus_per_trial or resources.gpus_per_trial, or set "
            "resources.max_concurrent_trials for a cluster that grows",
        )
    return Slots(gpus, fits)


def _default_gpus(nodes: Sequence[Node]) -> float:
    if any(node.gpus >= 1 for node in nodes):
        return 1.0
    if any(node.group is not None for node in nodes):
        raise ConfigError(
            "resources.gpus_per_trial: no node of the cluster has a GPU, but it may grow",
            fix="say resources.gpus_per_trial=1, or 0 for trials on CPUs",
        )
    return 0.0


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


def unpriced(
    budget: Budget, resources: Resources, slots: Slots, nodes: Sequence[Node]
) -> str | None:
    """Types of nodes that trials fit on and that have no price, said; None: each has one, or
    nothing has."""
    types = {
        node.type
        for node in nodes
        if node.num_trials(resources.cpus_per_trial, slots.gpus_per_trial) > 0
    }
    missing = sorted(types - set(budget.usd_per_hour))
    if not missing or not budget.usd_per_hour:
        return None
    return f"no price is known for {', '.join(missing)}: charged as the dearest that has one"
