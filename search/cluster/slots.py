"""How many trials fit on the nodes of a Ray cluster, and what each gets."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlflow_setup.errors import ConfigError
from search.config.sweep_config import Budget, Resources
from trainable.config.config import Config
from trainable.tune.cluster import Node


@dataclass(frozen=True)
class Slots:
    """What a trial gets, and how many run at a time."""

    gpus_per_trial: float
    max_concurrent_trials: int
    follows: bool = False  # as nodes come and go: the number is that of the start


def find_slots(resources: Resources, nodes: Sequence[Node]) -> Slots:
    """Fit trials into a cluster of these nodes: each runs on one of them.

    Raises:
        ConfigError: not one trial fits, and no number of trials was asked for; or it is not said
            whether trials need GPUs, and a cluster that grows has none yet.
    """
    cpus, gpus = resources.cpus_per_trial, resources.gpus_per_trial
    if gpus is None:
        gpus = _default_gpus(nodes)
    asked, fits = resources.max_concurrent_trials, sum(n.num_trials(cpus, gpus) for n in nodes)
    if asked == "auto":
        return Slots(gpus, max(1, fits), follows=True)
    if asked is not None:
        return Slots(gpus, asked)
    if fits < 1:
        sizes = Counter(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in nodes)
        has = ", ".join(f"{count} x {size}" for size, count in sizes.items())
        raise ConfigError(
            f"resources: a trial needs {cpus} CPUs and {gpus:g} GPUs on one node; the cluster has "
            f"{has or 'no node'}",
            fix="lower resources.cpus_per_trial or resources.gpus_per_trial, or set "
            "resources.max_concurrent_trials (auto: it follows the nodes) for a cluster that grows",
        )
    return Slots(gpus, fits)


def require_devices(configs: Iterable[Config], slots: Slots) -> None:
    """Trials that ask for a GPU get one.

    Raises:
        ConfigError: `train.device=cuda`, and no GPU is given to a trial.
    """
    if slots.gpus_per_trial <= 0 and any(c.train.device == "cuda" for c in configs):
        raise ConfigError(
            "train.device=cuda: no GPU is given to a trial",
            fix="resources.gpus_per_trial=1 on nodes that have GPUs, or train.device=auto",
        )


def _default_gpus(nodes: Sequence[Node]) -> float:
    if any(node.gpus >= 1 for node in nodes):
        return 1.0
    if any(node.group is not None for node in nodes):
        raise ConfigError(
            "resources.gpus_per_trial: no node of the cluster has a GPU, but it may grow",
            fix="say resources.gpus_per_trial=1, or 0 for trials on CPUs",
        )
    return 0.0


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
