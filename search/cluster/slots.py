"""How many trials fit on the nodes of a Ray cluster, and with which resources."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlflow_setup.errors import ConfigError
from search.config.sweep_config import Budget, Resources
from trainable.config.config import Config
from trainable.tune.cluster import Node


@dataclass(frozen=True)
class Slots:
    """GPUs of a trial, and how many trials run at a time."""

    gpus_per_trial: float
    max_concurrent_trials: int
    follows: bool = False  # the number is updated as nodes join and leave


def find_slots(resources: Resources, nodes: Sequence[Node]) -> Slots:
    """Count the trials that fit on these nodes at a time; each runs on a single node.

    Raises:
        ConfigError: no trial fits and `max_concurrent_trials` is not set; or `gpus_per_trial` is
            not set and an autoscaling cluster has no GPU yet.
    """
    cpus, gpus = resources.cpus_per_trial, resources.gpus_per_trial
    if gpus is None:
        gpus = _default_gpus(nodes)
    given, fits = resources.max_concurrent_trials, sum(n.num_trials(cpus, gpus) for n in nodes)
    if given == "auto":
        return Slots(gpus, max(1, fits), follows=True)
    if given is not None:
        return Slots(gpus, given)
    if fits < 1:
        sizes = Counter(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in nodes)
        has = ", ".join(f"{count} x {size}" for size, count in sizes.items())
        raise ConfigError(
            f"resources: a trial needs {cpus} CPUs and {gpus:g} GPUs on one node; the cluster has "
            f"{has or 'no node'}",
            fix="lower resources.cpus_per_trial or resources.gpus_per_trial, or set "
            "resources.max_concurrent_trials (auto: as many as fit) for a cluster that autoscales",
        )
    return Slots(gpus, fits)


def require_devices(configs: Iterable[Config], slots: Slots) -> None:
    """Check that trials that require a GPU get one.

    Raises:
        ConfigError: `train.device=cuda`, but trials get no GPU.
    """
    if slots.gpus_per_trial <= 0 and any(c.train.device == "cuda" for c in configs):
        raise ConfigError(
            "train.device=cuda: trials get no GPU",
            fix="resources.gpus_per_trial=1 on nodes that have GPUs, or train.device=auto",
        )


def _default_gpus(nodes: Sequence[Node]) -> float:
    if any(node.gpus >= 1 for node in nodes):
        return 1.0
    if any(node.group is not None for node in nodes):
        raise ConfigError(
            "resources.gpus_per_trial: no node of the cluster has a GPU, but it may grow",
            fix="set resources.gpus_per_trial=1, or 0 for trials on CPUs",
        )
    return 0.0


def unpriced(
    budget: Budget, resources: Resources, slots: Slots, nodes: Sequence[Node]
) -> str | None:
    """Return a warning that names the node types without a price on which trials may run.

    None: every such type has a price, or no type has one.
    """
    types = {
        node.type
        for node in nodes
        if node.num_trials(resources.cpus_per_trial, slots.gpus_per_trial) > 0
    }
    missing = sorted(types - set(budget.usd_per_hour))
    if not missing or not budget.usd_per_hour:
        return None
    return f"no price is known for {', '.join(missing)}: the highest known price is charged"
