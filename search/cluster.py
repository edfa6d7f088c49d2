"""The Ray cluster of a sweep: found or started, how many trials fit, and an orderly end."""

import gc
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from mlflow_setup.errors import ConfigError
from search.sweep_config import Resources

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # progress is shown here
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are `search.stop`'s
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # a stopped trial may be in the middle of a save
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the reason is in the trial's outcome
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # nothing of Tune's own state is read back
}


@dataclass(frozen=True)
class Slots:
    """What a trial gets, and how many run at a time."""

    gpus_per_trial: float
    max_concurrent_trials: int


def find_slots(resources: Resources, total: dict[str, float]) -> Slots:
    """Fit trials into a cluster with `total` resources, by Ray's names.

    Raises:
        ConfigError: not one trial fits, and no number of trials was asked for.
    """
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    each = resources.gpus_per_trial
    if each is None:
        each = 1.0 if gpus >= 1 else 0.0
    if resources.max_concurrent_trials is not None:
        return Slots(each, resources.max_concurrent_trials)
    fits = int(cpus // resources.cpus_per_trial)
    if each > 0:
        fits = min(fits, int(gpus // each) if each >= 1 else int(gpus) * int(1 / each))
    if fits < 1:
        raise ConfigError(
            f"resources: a trial needs {resources.cpus_per_trial} CPUs and {each:g} GPUs; the "
            f"cluster has {cpus:g} and {gpus:g}",
            fix="lower resources.cpus_per_trial or resources.gpus_per_trial, or set "
            "resources.max_concurrent_trials for a cluster that grows",
        )
    return Slots(each, fits)


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
def cluster() -> Iterator[dict[str, float]]:
    """The resources of the cluster at RAY_ADDRESS, of the one in use, or of this machine.

    Raises:
        ConfigError: nothing answers at RAY_ADDRESS, or what does is no cluster for this driver.
    """
    ours, address = not ray.is_initialized(), os.environ.get("RAY_ADDRESS")
    if ours and address:
        _join(address)
    elif ours:
        ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield dict(ray.cluster_resources())
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
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"RAY_ADDRESS={address}: {reason}", fix=fix) from None
