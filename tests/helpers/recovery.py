"""What a kill costs: how long until its trial runs again, and what of it is trained again."""

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
"""What is measured of each blow."""


@dataclass(frozen=True)
class Blow:
    """A trial at the moment at which its process, or all around it, was killed."""

    trial: Path
    wall_time: float
    epochs: dict[Path, int]  # those on disk, and when each was written

    def seconds_to_recover(self, since: float | None = None) -> float:
        """Until another process is at the trial, from the blow or from this wall time on."""
        since = since or self.wall_time
        starts = [attempt.start_time for attempt in TrialFolder(self.trial).attempts()]
        return min(start for start in starts if start > since) - since

    def num_epochs_again(self) -> int:
        """Of those on disk, how many were trained again."""
        return sum(
            not path.exists() or path.stat().st_mtime_ns > t for path, t in self.epochs.items()
        )

    def has_hit(self) -> bool:
        """Whether another process came to it; the trial may have ended the moment it was hit."""
        starts = [attempt.start_time for attempt in TrialFolder(self.trial).attempts()]
        return max(starts, default=0.0) > self.wall_time

    def is_over(self) -> bool:
        """Whether another process came to the trial, or it had ended as it was hit."""
        return self.has_hit() or TrialFolder(self.trial).outcome() is not None


def blow_to(process: psutil.Process) -> Blow | None:
    """To the trial that a process is at, known by the file that it has open; None between trials.

    To be called just before the process is killed.
    """
    open_files = [Path(file.path) for file in process.open_files()]
    trials = [path.parent.parent for path in open_files if path.parent.name == ATTEMPTS]
    return _blow(trials[0]) if trials else None


def blows_on(node: Node) -> list[Blow]:
    """To each trial on a node of `ray.cluster_utils.Cluster`."""
    raylet = node.all_processes[PROCESS_TYPE_RAYLET][0].process.pid
    found = []
    for process in psutil.Process(raylet).children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            found.append(blow_to(process))
    return [blow for blow in found if blow is not None]


def nodes_at_work(cluster: Cluster) -> list[Node]:
    """Those that have a trial, the newest last; the head has none."""
    return [node for node in cluster.list_all_nodes()[1:] if blows_on(node)]


def blows_to_all(folder: Path, name: str = "s") -> list[Blow]:
    """To each trial of the sweep that is under way, and that the scheduler has not stopped."""
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
    """By blow; no more than the interval of checkpoints, an epoch, is ever lost."""
    found = [blow.num_epochs_again() for blow in blows]
    assert max(found, default=0) <= 1
    return found
