"""Where a sweep's trials run, what they are given, and what that costs."""

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
"""Ray's, on every node."""


@dataclass(frozen=True)
class TrialPlacement:
    """Where the trials of a sweep run and what they are given."""

    storage: Path | str  # absolute, or a URI: the same on every machine
    sweep: str
    num_threads: int
    num_gpus: float = 0.0
    max_silence_seconds: float = 1800.0
    usd_per_hour: Mapping[str, float] = field(default_factory=dict)
    """Node type -> a node's price. One that has none is charged as the dearest."""
    inputs: Inputs = field(default_factory=Inputs)
    """What the sweep began with: a trial that reads anything else stops it."""

    @property
    def root(self) -> Path:
        """The storage folder; of a URI this machine's scratch, where a trial's folder is as long
        as its process is at it."""
        return storage_folder(self.storage, "scratch")

    def folder(self, trial: str) -> Path:
        return self.root / self.sweep / TRIALS / trial

    def preparation(self, number: int) -> Path:
        """Where it is put down what the encoder `number` took that was made for all trials."""
        return self.root / self.sweep / PREPARATION / str(number)

    @property
    def shared(self) -> Path:
        """What the trials of all sweeps have in common: encoders, teachers, soft labels."""
        return self.root / SHARED

    def limits(self) -> Limits:
        """What an attempt at a trial is held to, on the node that this process runs on."""
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
    """What a trial is given: all CPUs of the largest machine where it is to have one to itself;
    on none of the nodes that are to be avoided.

    Here because it goes to the workers with the trainable, and they need nothing else of `search`.
    """
    bundle = dict(exclusive if tune_config.get(EXCLUSIVE) else needs)
    avoided = ",".join(tune_config.get(AVOIDED, ()))
    if not avoided:
        return tune.PlacementGroupFactory([bundle])
    elsewhere = {NODE_LABEL: f"!in({avoided})"}
    return tune.PlacementGroupFactory([bundle], bundle_label_selector=[elsewhere])


def _this_node() -> tuple[str, dict[str, float]]:
    """The node's type in the cluster's file, and all of its resources by Ray's names."""
    node_type = os.environ.get("RAY_NODE_TYPE_NAME") or "local"
    return node_type, _resources_here() if ray.is_initialized() else {}


@functools.cache
def _resources_here() -> dict[str, float]:
    """Cached, for the list of all nodes comes from Ray's head, and a process stays on its node."""
    here = ray.get_runtime_context().get_node_id()
    resources = (node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return next(resources, {})
