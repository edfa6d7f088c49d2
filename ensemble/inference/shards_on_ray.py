"""Labels shards of sentences with the workers of a Ray cluster; the driver reads and writes files.

Each worker loads the bundle once, from a folder that every node can read. If a worker dies, it is
restarted and its shard is labelled again.
"""

import platform
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import ray
from ray.exceptions import RayError, RayTaskError

from ensemble.inference.ensemble import Ensemble
from ensemble.inference.shards import Label, Shard, bundle_fingerprint, contents
from mlflow_setup.errors import EnsweepError, IntegrityError, PartialError
from mlflow_setup.text import first_line
from trainable.tune.cluster import Node, cluster, environment

_MAX_RETRIES = 3


def label_on_ray(ensemble: Ensemble, tasks: list[str], as_json: bool) -> Label:
    """Return a function that labels shards on the cluster at RAY_ADDRESS, or on this machine, with
    a worker for each GPU, or for each CPU if there is no GPU. At most one shard per worker is in
    memory.
    """

    def label(shards: Iterator[Shard]) -> Iterator[tuple[int, str]]:
        with environment(), cluster() as nodes:
            idle = _workers(nodes, ensemble, tasks, as_json)
            running: dict[Any, tuple[int, Any]] = {}
            for number, sentences in shards:
                if not idle:
                    yield _wait(running, idle)
                worker = idle.pop()
                running[worker.contents.remote(sentences)] = number, worker
            while running:
                yield _wait(running, idle)

    return label


class _Worker:
    """A worker. It loads the bundle with its first shard, so that errors are raised as that
    shard's."""

    def __init__(
        self, settings: tuple[Any, ...], fingerprint: str, tasks: list[str], as_json: bool
    ) -> None:
        self.settings, self.fingerprint = settings, fingerprint
        self.tasks, self.as_json = tasks, as_json
        self.ensemble: Ensemble | None = None

    def contents(self, sentences: pd.DataFrame) -> str:
        if self.ensemble is None:
            self.ensemble = Ensemble.load(*self.settings)
            if bundle_fingerprint(self.ensemble) != self.fingerprint:
                raise IntegrityError(
                    f"{self.settings[0]}: is another bundle on {platform.node()}",
                    fix="put the bundle in a folder that is the same on every node",
                )
        return contents(self.ensemble, self.tasks, self.as_json, sentences)


def _workers(
    nodes: Sequence[Node], ensemble: Ensemble, tasks: list[str], as_json: bool
) -> list[Any]:
    num_gpus = sum(int(node.gpus) for node in nodes)
    worker = ray.remote(
        num_cpus=1,
        num_gpus=1 if num_gpus else 0,
        max_restarts=-1,
        max_task_retries=_MAX_RETRIES,
    )(_Worker)
    settings = (ensemble.bundle.folder.absolute(), ensemble.batch_size, ensemble.precision)
    arguments = (settings, bundle_fingerprint(ensemble), tasks, as_json)
    num_workers = num_gpus or max(1, sum(int(node.cpus) for node in nodes))
    return [worker.remote(*arguments) for _ in range(num_workers)]


def _wait(running: dict[Any, tuple[int, Any]], idle: list[Any]) -> tuple[int, str]:
    """Wait for the next shard, return it, and move its worker to `idle`."""
    (done, *_), _ = ray.wait(list(running), num_returns=1)
    number, worker = running.pop(done)
    try:
        text = ray.get(done)
    except RayTaskError as error:
        if isinstance(error.cause, EnsweepError):
            raise error.cause from None
        raise
    except RayError as error:
        reason = first_line(error)
        raise PartialError(
            f"shard {number}: its worker was lost after {_MAX_RETRIES} retries: {reason}",
            fix="run the command again: it continues with the missing shards",
        ) from None
    idle.append(worker)
    assert isinstance(text, str)
    return number, text
