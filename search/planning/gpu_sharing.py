"""How many trials at a time make the most of a GPU, or of a machine's CPUs: measured, not guessed.

Small models leave a large GPU idle between their kernels, and more threads help a small matrix
product little. So many tasks as would share it train side by side for a while, and their steps are
added up.
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
"""That the tasks train side by side."""
_PATIENCE = 300.0
"""Seconds to wait for the others to be ready."""


@dataclass(frozen=True)
class Share:
    """So many trials side by side, and what they do together."""

    count: int
    setting: str  # the key and value that has trials share like this
    steps_per_second: float | None  # of all; None: they do not fit
    problem: str = ""


def measure(settings: Mapping[str, Any], place: TrialPlacement, probe_folder: Path) -> list[Share]:
    """Trials of one configuration on the cluster's largest node: one at a time, then more.

    Args:
        settings: of the configuration, flat.
        probe_folder: the folder of `search.planning.probe.probe_folder`.
    """
    node = max((node for node in ray.nodes() if node["Alive"]), key=_size)
    return [_together(settings, probe_folder, node, *given) for given in _shares(place, node)]


def best(shares: list[Share]) -> Share:
    """The share with the most steps a second; of equals, that of fewer trials.

    Raises:
        ValueError: not even one trial fits.
    """
    fitting = [share for share in shares if share.steps_per_second is not None]
    return max(fitting, key=lambda share: (share.steps_per_second or 0.0, -share.count))


def tell(shares: list[Share]) -> str:
    """Side by side, in times of one at a time, and what to set."""
    alone = shares[0].steps_per_second
    if alone is None:
        return f"not even one trial fits: {shares[0].problem}"
    words = []
    for share in shares[1:]:
        speed = share.steps_per_second
        words.append(f"{share.count}: " + ("no room" if speed is None else f"{speed / alone:.2f}"))
    return (
        f"steps a second side by side, one trial's being 1: {', '.join(words) or 'no more fit'}; "
        f"best: {best(shares).setting}"
    )


def _size(node: Mapping[str, Any]) -> tuple[float, float]:
    return node["Resources"].get("GPU", 0), node["Resources"].get("CPU", 0)


def _shares(
    place: TrialPlacement, node: Mapping[str, Any]
) -> Iterator[tuple[int, str, TrialPlacement]]:
    """(trials, what to set, what each has) of what the node can be cut into."""
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


def _together(
    settings: Mapping[str, Any],
    probe_folder: Path,
    node: Mapping[str, Any],
    count: int,
    setting: str,
    place: TrialPlacement,
) -> Share:
    task = ray.remote(max_retries=0, num_cpus=place.num_threads, num_gpus=place.num_gpus)(_train)
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    tasks = task.options(scheduling_strategy=there)
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
    """Train in a worker: steps a second beside `count - 1` others."""
    limit_threads(place.num_threads, place.num_gpus)
    from trainable.data.dataset import read_dataset
    from trainable.training.profiler import steps_per_second

    def begin() -> None:
        (probe_folder / f"ready-{count}-{number}").touch()
        until = time.monotonic() + _PATIENCE
        while len(list(probe_folder.glob(f"ready-{count}-*"))) < count:
            if time.monotonic() > until:
                raise TimeoutError("those beside this one did not come")
            time.sleep(0.05)

    config = from_flat(settings)
    return steps_per_second(config, read_dataset(config), seconds, begin)
