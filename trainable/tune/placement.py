"""The storage, resources and price of a sweep's trials."""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune

from mlflow_setup.filesystem.opening import storage_folder
from trainable.data.inputs import Inputs
from trainable.storage.layout import PREPARATION, SHARED, STOP_FILE, TRIALS
from trainable.tune.attempt import Limits
from trainable.tune.keys import AVOIDED, EXCLUSIVE

NODE_LABEL = "ray.io/node-id"
"""The label with its ID that Ray gives every node."""


@dataclass(frozen=True)
class TrialPlacement:
    """The storage and resources of a sweep's trials."""

    storage: Path | str  # an absolute path or a URI, the same on every machine
    sweep: str
    num_threads: int
    num_gpus: float = 0.0
    max_silence_seconds: float = 1800.0
    usd_per_hour: Mapping[str, float] = field(default_factory=dict)
    """Node type -> price of a node. Types without a price cost as much as the most expensive."""
    inputs: Inputs = field(default_factory=Inputs)
    """The input files that the sweep began with; a trial that reads different ones stops it."""

    @property
    def root(self) -> Path:
        """The storage folder; for a URI, the local scratch folder, which has a trial's folder while
        its process runs."""
        return storage_folder(self.storage, "scratch")

    def folder(self, trial: str) -> Path:
        return self.root / self.sweep / TRIALS / trial

    def preparation(self, number: int) -> Path:
        """The folder of the attempt records for preparing encoder `number`, which trials share."""
        return self.root / self.sweep / PREPARATION / str(number)

    @property
    def shared(self) -> Path:
        """The folder that the trials of all sweeps share: encoders, teachers, soft labels."""
        return self.root / SHARED

    def limits(self) -> Limits:
        """The limits of an attempt at a trial on this node, with the price of its part of it."""
        node_type, total = _this_node()
        price = self.usd_per_hour.get(node_type, max(self.usd_per_hour.values(), default=0.0))
        used = {"GPU": self.num_gpus} if self.num_gpus else {"CPU": float(self.num_threads)}
        shares = [used[key] / total[key] for key in used if total.get(key)]
        return Limits(
            self.root / self.sweep / STOP_FILE,
            self.max_silence_seconds,
            num_cpus=self.num_threads,
            num_gpus=self.num_gpus,
            node_type=node_type,
            usd_per_hour=price * min([1.0, *shares]),
        )


def resources(
    needs: Mapping[str, float], exclusive: Mapping[str, float], tune_config: Mapping[str, Any]
) -> tune.PlacementGroupFactory:
    """The resources of a trial and the nodes that it must avoid.

    It is defined here and not in `search`, because Tune sends it to the workers.

    Args:
        needs: Ray's resources of a trial.
        exclusive: its resources if it gets a machine of its own.
        tune_config: the trial's configuration, with the keys `EXCLUSIVE` and `AVOIDED`.
    """
    bundle = dict(exclusive if tune_config.get(EXCLUSIVE) else needs)
    avoided = ",".join(tune_config.get(AVOIDED, ()))
    if not avoided:
        return tune.PlacementGroupFactory([bundle])
    selector = {NODE_LABEL: f"!in({avoided})"}
    return tune.PlacementGroupFactory([bundle], bundle_label_selector=[selector])


def _this_node() -> tuple[str, dict[str, float]]:
    """This node's type in the cluster's file, and its total resources by Ray's names."""
    node_type = os.environ.get("RAY_NODE_TYPE_NAME") or "local"
    return node_type, _resources_here() if ray.is_initialized() else {}


@functools.cache
def _resources_here() -> dict[str, float]:
    """This node's resources. Cached, because listing the nodes is a request to Ray's head node."""
    here = ray.get_runtime_context().get_node_id()
    resources = (node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return next(resources, {})
