"""The probe: a Ray task that checks a node on which trials will run.

It checks storage, versions, data and memory, and trains a few steps. To check that the storage
folder is shared, the driver writes a file in it and locks another: the probe must read the first,
fail to lock the second, and write a third that the driver reads.
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
    """The report of a probe."""

    host: str
    answer: str  # name of the file that it wrote
    node_type: str
    usd_per_hour: float  # of a trial on this node
    versions: Mapping[str, str]
    memory_bytes: int  # of the machine, or of its GPU
    problems: tuple[str, ...] = ()
    rehearsals: Mapping[str, Rehearsal] = field(default_factory=dict)
    """Name of a configuration -> its measured cost."""


@contextmanager
def probe_folder(storage: Path) -> Iterator[Path]:
    """Create a folder in `storage` for probes, and remove it afterwards.

    Raises:
        ConfigError: the storage folder cannot be created, written to, read or locked.
    """
    try:
        storage.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".plan-", dir=storage) as name:
            folder = Path(name)
            write_atomic(folder / QUESTION, folder.name)
            if (folder / QUESTION).read_text(encoding="utf-8") != folder.name:
                raise OSError("a file has other content when read than was written")
            lock = storage_of(folder).lock(folder / LOCK)
            lock.acquire(timeout=5)
            try:
                yield folder
            finally:
                lock.release()
                storage_of(folder).withdraw(folder)
    except (OSError, NotImplementedError, Timeout) as error:
        fix = "set --storage to a folder that can be written to"
        raise ConfigError(f"storage {storage}: {first_line(error)}", fix=fix) from None


def probe(
    place: TrialPlacement, folder: Path, configs: Mapping[str, Mapping[str, Any]]
) -> NodeReport:
    """Check the node in a worker with the resources of a trial, and rehearse `configs`.

    Problems are part of the report, not raised.
    """
    limit_threads(place.num_threads, place.num_gpus)
    problems = list(_storage_problems(place.root / folder.name))
    rehearsals: dict[str, Rehearsal] = {}
    with tempfile.TemporaryDirectory() as cache:
        _share_fetched(Path(cache))
        os.environ["ENSWEEP_CACHE"] = cache  # rehearsals cache only part of the data
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
    """Return the versions of Python and of the main packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _share_fetched(cache: Path) -> None:
    """Link the copies of remote folders into the cache: they are complete, for trials to reuse."""
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
            yield f"storage: {folder / QUESTION} does not have the content that the driver wrote"
        write_atomic(folder / _answer_name(), socket.gethostname())
        lock = storage_of(folder).lock(folder / LOCK)
        lock.acquire(timeout=0)
        lock.release()
        yield f"storage: locks in {folder.parent} do not work between machines"
    except Timeout:
        return
    except OSError as error:
        why = first_line(error)
        yield f"storage: {folder.parent} does not exist, or is not the driver's: {why}"


def _answer_name() -> str:
    """Return a file name unique to this process: two containers may have the same host name and
    process id."""
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
