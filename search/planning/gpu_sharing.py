"""Measures how many concurrent trials give the highest throughput on a GPU, or on a machine's CPUs.

Small models leave a large GPU idle between kernels, and more threads hardly speed up a small matrix
product. For each number of trials, as many tasks train concurrently for a while, and their steps
per second are summed.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainable.config.parse import from_flat
from trainable.runtime.threads import limit_threads
from trainable.tune.placement import TrialPlacement

COUNTS = (1, 2, 4)
SECONDS = 10.0
"""How long the tasks train concurrently."""
_READY_SECONDS = 300.0
"""How long a task waits for the others to be ready."""


@dataclass(frozen=True)
class Share:
    """A number of concurrent trials, and their throughput."""

    count: int
    setting: str  # `key=value` that makes trials share like this
    steps_per_second: float | None  # sum over the trials; None: they do not fit
    problem: str = ""


def measure(settings: Mapping[str, Any], place: TrialPlacement, probe_folder: Path) -> list[Share]:
    """Measure trials of one configuration on the cluster's largest node: one, then several.

    Args:
        settings: the configuration, flat.
        probe_folder: the folder of `search.planning.probe.probe_folder`.
    """
    node = max((node for node in ray.nodes() if node["Alive"]), key=_size)
    return [_measure(settings, probe_folder, node, *given) for given in _shares(place, node)]


def best(shares: list[Share]) -> Share:
    """Return the share with the most steps per second; of equals, the one with fewer trials.

    Raises:
        ValueError: not even one trial fits.
    """
    fitting = [share for share in shares if share.steps_per_second is not None]
    return max(fitting, key=lambda share: (share.steps_per_second or 0.0, -share.count))


def describe(shares: list[Share]) -> str:
    """Return the throughput of each share relative to a single trial, and the best setting."""
    single = shares[0].steps_per_second
    if single is None:
        return f"not even one trial fits: {shares[0].problem}"
    parts = []
    for share in shares[1:]:
        speed = share.steps_per_second
        parts.append(
            f"{share.count}: " + ("does not fit" if speed is None else f"{speed / single:.2f}")
        )
    return (
        "steps per second of concurrent trials relative to one trial: "
        f"{', '.join(parts) or 'no more fit'}; best: {best(shares).setting}"
    )


def _size(node: Mapping[str, Any]) -> tuple[float, float]:
    return node["Resources"].get("GPU", 0), node["Resources"].get("CPU", 0)


def _shares(
    place: TrialPlacement, node: Mapping[str, Any]
) -> Iterator[tuple[int, str, TrialPlacement]]:
    """Yield (number of trials, setting, resources of each) for the ways to share the node."""
    cpus = int(node["Resources"].get("CPU", 0))
    for count in COUNTS:
        if place.num_gpus:
            threads = max(1, min(place.num_threads, cpus // count))
            setting = f"resources.gpus_per_trial={1 / count:g}"
            if threads * count <= cpus:
                yield count, setting, replace(place, num_threads=threads, num_gpus=1 / count)
        elif cpus >= count:
            threads = cpus // count
            yield count, f"resources.cpus_per_trial={threads}", replace(place, num_threads=threads)


def _measure(
    settings: Mapping[str, Any],
    probe_folder: Path,
    node: Mapping[str, Any],
    count: int,
    setting: str,
    place: TrialPlacement,
) -> Share:
    task = ray.remote(max_retries=0, num_cpus=place.num_threads, num_gpus=place.num_gpus)(_train)
    on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    tasks = task.options(scheduling_strategy=on_node)
    sent = [
        tasks.remote(settings, place, probe_folder, count, number, SECONDS)
        for number in range(count)
    ]
    try:
        return Share(count, setting, sum(ray.get(sent)))
    except RayError as error:
        for reference in sent:
            ray.cancel(reference, force=True)
        return Share(count, setting, None, str(error).strip().splitlines()[-1])


def _train(
    settings: Mapping[str, Any],
    place: TrialPlacement,
    probe_folder: Path,
    count: int,
    number: int,
    seconds: float,
) -> float:
    """Train in a worker, concurrently with `count - 1` others. Return the steps per second."""
    limit_threads(place.num_threads, place.num_gpus)
    from trainable.data.dataset import read_dataset
    from trainable.training.profiler import steps_per_second

    def begin() -> None:
        (probe_folder / f"ready-{count}-{number}").touch()
        until = time.monotonic() + _READY_SECONDS
        while len(list(probe_folder.glob(f"ready-{count}-*"))) < count:
            if time.monotonic() > until:
                raise TimeoutError("the other tasks did not start in time")
            time.sleep(0.05)

    config = from_flat(settings)
    return steps_per_second(config, read_dataset(config), seconds, begin)
