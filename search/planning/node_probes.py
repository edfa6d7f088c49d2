"""Runs probes on the cluster, with the resources of trials, and combines their reports."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.storage import storage_of
from mlflow_setup.text import first_line
from search.planning.probe import NodeReport, probe, versions
from search.planning.representative_trials import LARGEST
from trainable.config.config import Config
from trainable.runtime.progress import Tally
from trainable.training.profile import Rehearsal
from trainable.tune.placement import TrialPlacement

WAIT_SECONDS = 900
"""Timeout of the probes, in which the cluster may have to start a node."""

_MEMORY_SHARE = 0.95
"""Fraction of a machine's memory beyond which Ray kills processes."""

_MUST_AGREE = ("python", "ray", "ensweep")


@dataclass(frozen=True)
class ProbeResults:
    """The reports of all probes."""

    reports: tuple[NodeReport, ...]

    @property
    def problems(self) -> list[str]:
        """The distinct problems, each with its host."""
        lines = [f"{report.host}: {line}" for report in self.reports for line in report.problems]
        return list(dict.fromkeys(lines))

    @property
    def rehearsals(self) -> dict[str, Rehearsal]:
        """Name of a configuration -> its measured cost; the first of several measurements."""
        reports = reversed(self.reports)
        return {name: cost for report in reports for name, cost in report.rehearsals.items()}

    @property
    def usd_per_hour(self) -> float:
        """The highest price of a trial over the nodes."""
        return max(report.usd_per_hour for report in self.reports)


def run_probes(
    configs: Mapping[str, Config],
    place: TrialPlacement,
    probe_folder: Path,
    num_probes: int,
    *,
    deep: bool,
) -> ProbeResults:
    """Rehearse `configs` on the cluster, up to `num_probes` concurrently, as trials would run.

    Args:
        probe_folder: the folder of `search.planning.probe.probe_folder`.
        deep: probe a node of every type as well, and rehearse the largest configuration of each
            encoder there.

    Raises:
        ConfigError: no node with room for a trial came up in time, or a probe was lost.
    """
    needs = {"num_cpus": place.num_threads, "num_gpus": place.num_gpus}
    task = ray.remote(max_retries=0, **needs)(probe)
    flat = {name: config.flat() for name, config in configs.items()}
    num_probes = max(1, min(num_probes, len(flat)))
    shares = [dict(list(flat.items())[n::num_probes]) for n in range(num_probes)]
    sent = [task.remote(place, probe_folder, share) for share in shares]
    largest = {name: given for name, given in flat.items() if name.startswith(LARGEST)}
    for node in _one_of_each_type(place) if deep else ():
        on_node = NodeAffinitySchedulingStrategy(node, soft=False)
        sent.append(task.options(scheduling_strategy=on_node).remote(place, probe_folder, largest))
    try:
        reports = _reports(sent)
    except GetTimeoutError:
        for reference in sent:
            ray.cancel(reference, force=True)
        raise ConfigError(
            f"a task with the resources of a trial did not end in {WAIT_SECONDS // 60} minutes",
            fix="ray status shows which resources the cluster waits for",
        ) from None
    except RayError as error:
        reason = first_line(error)
        raise ConfigError(f"a task with the resources of a trial was lost: {reason}") from None
    return ProbeResults(tuple(with_driver(each, probe_folder) for each in reports))


def _reports(sent: list[Any]) -> tuple[NodeReport, ...]:
    """Return the reports of the probes, in the order in which they were sent.

    Raises:
        GetTimeoutError: a probe takes too long.
        RayError: a probe was lost.
    """
    tally, waiting = Tally("tasks that train a few steps", len(sent)), sent
    deadline = time.monotonic() + WAIT_SECONDS
    while waiting and time.monotonic() < deadline:
        ended, waiting = ray.wait(waiting, timeout=1.0)
        tally.add(len(ended))
    return tuple(ray.get(sent, timeout=0))


def memory_problems(
    results: ProbeResults, place: TrialPlacement, max_concurrent_trials: int
) -> Iterator[str]:
    """Yield a problem for each node whose memory is too small for the trials that share it."""
    num_sharing = min(max_concurrent_trials, _max_per_machine(place))
    for report in results.reports:
        peak = max((cost.peak_bytes for cost in report.rehearsals.values()), default=0)
        if peak * num_sharing > _MEMORY_SHARE * report.memory_bytes:
            yield (
                f"{report.host}: {num_sharing} x {peak / 1e9:.1f} GB at a time, of "
                f"{report.memory_bytes / 1e9:.1f} GB of memory"
            )


def with_driver(report: NodeReport, probe_folder: Path) -> NodeReport:
    """Add the problems that only the driver sees: a file of the probe that it cannot read, and
    different versions."""
    problems = list(report.problems)
    storage_of(probe_folder).pull(probe_folder, report.answer)
    if not (probe_folder / report.answer).is_file():
        problems.append(
            f"storage: the driver does not see what a task wrote below {probe_folder.parent}"
        )
    ours = versions()
    for name in _MUST_AGREE:
        if report.versions[name] != ours[name]:
            problems.append(f"{name} is {report.versions[name]}; the driver has {ours[name]}")
    return NodeReport(**{**vars(report), "problems": tuple(problems)})


def _one_of_each_type(place: TrialPlacement) -> list[str]:
    """Return the ids of nodes on which a trial fits, one of each type that is running."""
    types: dict[Any, str] = {}
    for node in _alive():
        resources = node["Resources"]
        if (
            resources.get("CPU", 0) >= place.num_threads
            and resources.get("GPU", 0) >= place.num_gpus
        ):
            labels = {k: v for k, v in node.get("Labels", {}).items() if k != "ray.io/node-id"}
            size = resources.get("CPU"), resources.get("GPU"), tuple(sorted(labels.items()))
            types.setdefault(size, node["NodeID"])
    return list(types.values())


def _max_per_machine(place: TrialPlacement) -> int:
    """Return the largest number of trials that share the memory of one machine, or of one GPU."""
    if place.num_gpus:
        return int(1 / place.num_gpus) if place.num_gpus < 1 else 1
    return max(int(node["Resources"].get("CPU", 0) // place.num_threads) for node in _alive())


def _alive() -> Sequence[Mapping[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]
