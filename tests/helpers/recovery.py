"""The cost of killing a trial: the time until it runs again, and the epochs it trains again."""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from ray._private.node import Node
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster

from search.storage.history import read_history
from search.storage.sweep_folder import SweepFolder
from trainable.storage.layout import ATTEMPTS
from trainable.storage.trial_folder import TrialFolder

RECOVERED, AGAIN = "running again after", "trained again of what was on disk:"
"""The measurements of each kill, as the fault table names them."""


@dataclass(frozen=True)
class Blow:
    """A trial at the moment at which its process, node or driver was killed."""

    trial: Path
    wall_time: float
    epochs: dict[Path, int]  # epochs on disk, and when each was written

    def seconds_to_recover(self, since: float | None = None) -> float:
        """Seconds from the kill, or from `since`, until another process runs the trial."""
        since = since or self.wall_time
        starts = [attempt.start_time for attempt in TrialFolder(self.trial).attempts()]
        return min(start for start in starts if start > since) - since

    def num_epochs_again(self) -> int:
        """The number of epochs on disk that were trained again."""
        return sum(
            not path.exists() or path.stat().st_mtime_ns > t for path, t in self.epochs.items()
        )

    def has_hit(self) -> bool:
        """Whether another process ran it later; the trial may have ended when it was killed."""
        starts = [attempt.start_time for attempt in TrialFolder(self.trial).attempts()]
        return max(starts, default=0.0) > self.wall_time

    def is_over(self) -> bool:
        """Whether another process runs the trial, or it had ended when it was killed."""
        return self.has_hit() or TrialFolder(self.trial).outcome() is not None


def blow_to(process: psutil.Process) -> Blow | None:
    """The blow to the trial that a process runs, found by its open file; None between trials.

    Call it just before killing the process.
    """
    open_files = [Path(file.path) for file in process.open_files()]
    trials = [path.parent.parent for path in open_files if path.parent.name == ATTEMPTS]
    return _blow(trials[0]) if trials else None


def blows_on(node: Node) -> list[Blow]:
    """The blows to the trials on a node of `ray.cluster_utils.Cluster`."""
    raylet = node.all_processes[PROCESS_TYPE_RAYLET][0].process.pid
    found = []
    for process in psutil.Process(raylet).children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            found.append(blow_to(process))
    return [blow for blow in found if blow is not None]


def nodes_at_work(cluster: Cluster) -> list[Node]:
    """The nodes that run a trial, the newest last; the head runs none."""
    return [node for node in cluster.list_all_nodes()[1:] if blows_on(node)]


def blows_to_all(folder: Path, name: str = "s") -> list[Blow]:
    """The blows to all running trials of a sweep that the scheduler has not stopped."""
    sweep = SweepFolder(folder / "runs", name)
    return [
        _blow(sweep.trial(past.name).path)
        for past in read_history(sweep.trial_folders())
        if past.outcome is None and past.stop_decision is None
    ]


def _blow(trial: Path) -> Blow:
    epochs = {path: path.stat().st_mtime_ns for path in (trial / "epochs").glob("????.json")}
    return Blow(trial, time.time(), epochs)


def num_epochs_again(blows: Iterable[Blow]) -> list[int]:
    """The number of epochs trained again after each blow, at most one: the checkpoint interval."""
    found = [blow.num_epochs_again() for blow in blows]
    assert max(found, default=0) <= 1
    return found
