"""What a Ray task finds where trials will run: storage, versions, data, memory, a few steps.

The driver leaves a file in the storage folder and locks another; a task that reads the one, is kept
out of the other and answers in a third shares the folder with it.
"""

import os
import platform
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from filelock import Timeout

from mlflow_setup.errors import ConfigError, EnsweepError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.filesystem.paths import cache_folder
from mlflow_setup.filesystem.storage import storage_of
from mlflow_setup.text import first_line
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.data.remote import FETCHED
from trainable.runtime.threads import limit_threads
from trainable.training.profile import Rehearsal
from trainable.tune.placement import TrialPlacement

LOCK, QUESTION = "lock", "driver"
_PACKAGES = ("ray", "torch", "transformers", "ensweep")
_PROCESS = uuid.uuid4().hex[:8]


@dataclass(frozen=True)
class NodeReport:
    """What a task has to tell."""

    host: str
    answer: str  # the file that it wrote
    node_type: str
    usd_per_hour: float  # of a trial there
    versions: Mapping[str, str]
    memory_bytes: int  # of the machine, or of its GPU
    problems: tuple[str, ...] = ()
    rehearsals: Mapping[str, Rehearsal] = field(default_factory=dict)  # name -> what it takes


@contextmanager
def probe_folder(storage: Path) -> Iterator[Path]:
    """A folder in `storage` for tasks to find and answer in; gone afterwards.

    Raises:
        ConfigError: the storage folder cannot be made, written to, read or locked.
    """
    try:
        storage.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".plan-", dir=storage) as name:
            folder = Path(name)
            write_atomic(folder / QUESTION, folder.name)
            if (folder / QUESTION).read_text(encoding="utf-8") != folder.name:
                raise OSError("what was written is not what is read")
            lock = storage_of(folder).lock(folder / LOCK)
            lock.acquire(timeout=5)
            try:
                yield folder
            finally:
                lock.release()
                storage_of(folder).withdraw(folder)
    except (OSError, NotImplementedError, Timeout) as error:
        fix = "set --storage to a folder that can be written to"
        raise ConfigError(f"storage {storage}: {error}", fix=fix) from None


def probe(
    place: TrialPlacement, folder: Path, configs: Mapping[str, Mapping[str, Any]]
) -> NodeReport:
    """Look around in a worker with the resources of a trial, and rehearse `configs`.

    Whatever is wrong is returned: what is raised here would be raised in every trial.
    """
    limit_threads(place.num_threads, place.num_gpus)
    problems = list(_storage_problems(place.root / folder.name))
    rehearsals: dict[str, Rehearsal] = {}
    with tempfile.TemporaryDirectory() as cache:
        _share_fetched(Path(cache))
        os.environ["ENSWEEP_CACHE"] = cache  # a part of the data is not to be found again
        for name, settings in configs.items():
            try:
                rehearsals[name] = _rehearse(from_flat(settings))
            except EnsweepError as error:
                problems.append(f"{name}: {error.problem}")
            except Exception as error:
                problems.append(f"{name}: {type(error).__name__}: {first_line(error)}")
    limits = place.limits()
    return NodeReport(
        socket.gethostname(),
        _answer_name(),
        limits.node_type,
        limits.usd_per_hour,
        versions(),
        _memory_bytes(place),
        (*problems, *_gpu_problems(place)),
        rehearsals,
    )


def versions() -> dict[str, str]:
    """Versions of Python and of what driver and trials must have alike."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _share_fetched(cache: Path) -> None:
    """Copies of remote folders are whole: they are there for the trials then."""
    ours = cache_folder() / FETCHED
    ours.mkdir(mode=0o700, parents=True, exist_ok=True)
    (cache / FETCHED).symlink_to(ours, target_is_directory=True)


def _rehearse(config: Config) -> Rehearsal:
    from trainable.data.dataset import read_dataset
    from trainable.training.profiler import rehearse

    return rehearse(config, read_dataset(config))


def _storage_problems(folder: Path) -> Iterator[str]:
    try:
        storage_of(folder).pull(folder, QUESTION)
        if (folder / QUESTION).read_text(encoding="utf-8") != folder.name:
            yield f"storage: {folder / QUESTION} is not what the driver wrote"
        write_atomic(folder / _answer_name(), socket.gethostname())
        lock = storage_of(folder).lock(folder / LOCK)
        lock.acquire(timeout=0)
        lock.release()
        yield f"storage: {folder.parent} has no locks that hold between machines"
    except Timeout:
        return
    except OSError as error:
        yield f"storage: {folder.parent} is not there, or not the driver's: {error}"


def _answer_name() -> str:
    """A file name of this process alone: two containers may share a host's name and a process
    number."""
    return f"{socket.gethostname()}-{os.getpid()}-{_PROCESS}"


def _memory_bytes(place: TrialPlacement) -> int:
    if place.num_gpus:
        import torch

        if torch.cuda.is_available():
            return int(torch.cuda.get_device_properties(0).total_memory)
    return int(psutil.virtual_memory().total)


def _gpu_problems(place: TrialPlacement) -> Iterator[str]:
    if place.num_gpus:
        import torch

        if not torch.cuda.is_available():
            yield f"torch {torch.__version__} sees none of the {place.num_gpus:g} GPUs of a trial"
