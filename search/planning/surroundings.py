"""Checks of this machine and environment (`ensweep doctor`): versions, devices, folders, servers.

Nothing is created: no database, no folder, no experiment. No secret is shown.
"""

import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.paths import cache_folder
from mlflow_setup.filesystem.storage import num_bytes, storage_of
from mlflow_setup.tracking.sqlite import check_writable
from mlflow_setup.tracking.store import Tracking
from mlflow_setup.uris import redact
from search.planning.checks import Checks
from search.planning.probe import probe_folder
from search.storage.sweep_folder import sweep_names
from trainable.config.recipe import given_settings
from trainable.data.remote import PACKAGED
from trainable.runtime.precision import choose_device, choose_precision
from trainable.tune.local_ray import check_ray_can_start

PACKAGES = ("ensweep", "torch", "transformers", "ray", "optuna", "mlflow", "scikit-learn")
_OURS = re.compile(r"(ENSWEEP|MLFLOW|RAY|HF|CUDA|AWS|HUGGING_?FACE)_", re.IGNORECASE)
_SECRET = re.compile(r"TOKEN|PASSWORD|SECRET|KEY|CREDENTIAL|AUTH", re.IGNORECASE)


def check_surroundings(storage: Path, tracking: Tracking) -> Checks:
    """Check versions, devices, storage, tracking, cache, token and environment."""
    checks = Checks()
    environment = dict(os.environ)  # libraries that the checks import may add to it
    checks.run("versions", _versions)
    checks.run("devices", _devices)
    checks.run("ray", _ray)
    checks.run("storage", lambda: _storage(storage))
    checks.run("tracking", lambda: _tracking(tracking))
    checks.run("cache", _cache)
    checks.run("encoders", _encoders)
    checks.run("token", _token)
    checks.run("environment", lambda: _environment(environment))
    return checks


def _versions() -> str:
    versions = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            raise ConfigError(
                f"{package} is not installed", fix="install ensweep again, with its dependencies"
            ) from None
    return ", ".join(versions)


def _devices() -> str:
    import torch

    memory = psutil.virtual_memory()
    devices = [
        f"{len(psutil.Process().cpu_affinity() or ())} CPUs",
        f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB memory free",
    ]
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        devices.append(f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    if not torch.cuda.is_available():
        devices.append("no CUDA device")
    precision = str(choose_precision("auto", choose_device("auto"))).removeprefix("torch.")
    return f"{'; '.join(devices)}; precision auto: {precision}"


def _ray() -> str:
    address = os.environ.get("RAY_ADDRESS")
    if address:
        return f"sweeps run on the cluster at {address} (not connected to)"
    check_ray_can_start()
    return "Ray can be started on this machine"


def _storage(storage: Path) -> str:
    kept = storage_of(storage)
    if kept.is_remote:
        kept.probe()
        return f"{kept.address(storage)}: {len(sweep_names(storage))} sweep(s); writable"
    if not storage.exists():
        above = next(each for each in storage.absolute().parents if each.exists())
        if not os.access(above, os.W_OK):
            raise ConfigError(f"{storage}: cannot be created in {above}", fix="set --storage")
        return f"{storage}: does not exist yet, the first run creates it; {_free(above)}"
    with probe_folder(storage):
        names = sweep_names(storage)
    return f"{storage}: {len(names)} sweep(s); writable, with locks; {_free(storage)}"


def _tracking(tracking: Tracking) -> str:
    shown, database = redact(tracking.uri), tracking.database
    if database is not None and not database.exists():
        return f"{shown}: does not exist yet, the first run creates it"
    with tracking.errors():
        if database is not None:
            check_writable(database)
        experiment = tracking.find_experiment()
    state = "nothing is tracked yet" if experiment is None else f"experiment {tracking.experiment}"
    return f"{shown}: reachable; {state}"


def _cache() -> str:
    folder = cache_folder()
    above = next(each for each in (folder, *folder.parents) if each.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise ConfigError(f"{folder}: cannot be written", fix="set ENSWEEP_CACHE to another folder")
    size = num_bytes(folder) if folder.exists() else 0
    return f"{folder}: {size / 1e9:.1f} GB used; {_free(above)}"


def _encoders() -> str:
    names = [name for name, module in PACKAGED.items() if importlib.util.find_spec(module)]
    packaged = f"packaged: {', '.join(names)}" if names else "none packaged (pip: ensweep[demo])"
    is_offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return f"{packaged}; the hub is {'not used: HF_HUB_OFFLINE' if is_offline else 'used'}"


def _token() -> str:
    from huggingface_hub import get_token

    token = get_token()
    return "of the hub: none, public models only" if token is None else "of the hub: set, ***"


def _environment(variables: Mapping[str, str]) -> str:
    given_settings((), variables)  # raises for an unknown ENSWEEP_ variable
    shown = [
        f"{name}={'***' if _SECRET.search(name) else redact(value)}"
        for name, value in sorted(variables.items())
        if _OURS.match(name)
    ]
    return ", ".join(shown) or "no variables that concern ensweep"


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 1e9:.1f} GB free"
