"""Probes sent into the cluster, with the resources of trials, and what their reports add up to."""

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
"""For the cluster to start a node, and for the rehearsals."""

_MEMORY_SHARE = 0.95
"""Of a machine's memory: beyond it Ray ends processes."""

_MUST_AGREE = ("python", "ray", "ensweep")


@dataclass(frozen=True)
class Visits:
    """What all probes have found."""

    reports: tuple[NodeReport, ...]

    @property
    def problems(self) -> list[str]:
        """Each with the machine where it is found."""
        told = [f"{report.host}: {line}" for report in self.reports for line in report.problems]
        return list(dict.fromkeys(told))

    @property
    def rehearsals(self) -> dict[str, Rehearsal]:
        """What each configuration takes, by its name, as it was found first."""
        reports = reversed(self.reports)
        return {name: cost for visit in reports for name, cost in visit.rehearsals.items()}

    @property
    def usd_per_hour(self) -> float:
        """The price of a trial where it costs the most."""
        return max(report.usd_per_hour for report in self.reports)


def visit(
    configs: Mapping[str, Config],
    place: TrialPlacement,
    probe_folder: Path,
    num_probes: int,
    *,
    deep: bool,
) -> Visits:
    """Rehearse `configs`, up to `num_probes` at a time, as trials beside each other would run.

    Args:
        probe_folder: the folder of `search.planning.probe.probe_folder`.
        deep: look around on a node of every type as well, and rehearse what `choose` says is the
            largest with each encoder there.

    Raises:
        ConfigError: the cluster had no room for a trial, or a probe was lost.
    """
    needs = {"num_cpus": place.num_threads, "num_gpus": place.num_gpus}
    task = ray.remote(max_retries=0, **needs)(probe)
    flat = {name: config.flat() for name, config in configs.items()}
    num_probes = max(1, min(num_probes, len(flat)))
    shares = [dict(list(flat.items())[n::num_probes]) for n in range(num_probes)]
    sent = [task.remote(place, probe_folder, share) for share in shares]
    largest = {name: given for name, given in flat.items() if name.startswith(LARGEST)}
    for node in _one_of_each_type(place) if deep else ():
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        sent.append(task.options(scheduling_strategy=there).remote(place, probe_folder, largest))
    try:
        reports = _answers(sent)
    except GetTimeoutError:
        for reference in sent:
            ray.cancel(reference, force=True)
        raise ConfigError(
            f"no answer from a task like a trial in {WAIT_SECONDS // 60} minutes",
            fix="ray status tells what the cluster waits for",
        ) from None
    except RayError as error:
        reason = first_line(error)
        raise ConfigError(f"a task like a trial was lost: {reason}") from None
    return Visits(tuple(with_driver(each, probe_folder) for each in reports))


def _answers(sent: list[Any]) -> tuple[NodeReport, ...]:
    """What the probes have found, in the order in which they were sent.

    Raises:
        GetTimeoutError: one takes too long.
        RayError: one was lost.
    """
    tally, waiting = Tally("tasks that train a few steps", len(sent)), sent
    deadline = time.monotonic() + WAIT_SECONDS
    while waiting and time.monotonic() < deadline:
        ended, waiting = ray.wait(waiting, timeout=1.0)
        tally.add(len(ended))
    return tuple(ray.get(sent, timeout=0))


def memory_problems(
    visits: Visits, place: TrialPlacement, max_concurrent_trials: int
) -> Iterator[str]:
    """Configurations that do not fit as often as they would run on one machine or GPU."""
    beside = min(max_concurrent_trials, _fit_on_a_machine(place))
    for report in visits.reports:
        peak = max((cost.peak_bytes for cost in report.rehearsals.values()), default=0)
        if peak * beside > _MEMORY_SHARE * report.memory_bytes:
            yield (
                f"{report.host}: {beside} x {peak / 1e9:.1f} GB at a time, of "
                f"{report.memory_bytes / 1e9:.1f} GB of memory"
            )


def with_driver(report: NodeReport, probe_folder: Path) -> NodeReport:
    """Add the problems that only the driver can see: an answer it does not read, versions."""
    problems = list(report.problems)
    storage_of(probe_folder).pull(probe_folder, report.answer)
    if not (probe_folder / report.answer).is_file():
        problems.append(
            f"storage: what a task wrote below {probe_folder.parent} is not seen by the driver"
        )
    ours = versions()
    for name in _MUST_AGREE:
        if report.versions[name] != ours[name]:
            problems.append(f"{name} is {report.versions[name]}; the driver has {ours[name]}")
    return NodeReport(**{**vars(report), "problems": tuple(problems)})


def _one_of_each_type(place: TrialPlacement) -> list[str]:
    """Nodes on which a trial fits, by id, one of every kind that is up."""
    kinds: dict[Any, str] = {}
    for node in _alive():
        resources = node["Resources"]
        if (
            resources.get("CPU", 0) >= place.num_threads
            and resources.get("GPU", 0) >= place.num_gpus
        ):
            labels = {k: v for k, v in node.get("Labels", {}).items() if k != "ray.io/node-id"}
            size = resources.get("CPU"), resources.get("GPU"), tuple(sorted(labels.items()))
            kinds.setdefault(size, node["NodeID"])
    return list(kinds.values())


def _fit_on_a_machine(place: TrialPlacement) -> int:
    """Trials that share the memory of one machine, or of one GPU."""
    if place.num_gpus:
        return int(1 / place.num_gpus) if place.num_gpus < 1 else 1
    return max(int(node["Resources"].get("CPU", 0) // place.num_threads) for node in _alive())


def _alive() -> Sequence[Mapping[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]
