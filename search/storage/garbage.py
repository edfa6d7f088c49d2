"""Garbage in a sweep's folder: files that nothing needs any more (`ensweep gc`).

These are weights of trials that diverged, failed, or were pruned far from the top; checkpoints of
trials that have ended; files that crashes left. Records, predictions and the weights of members of
chosen ensembles are kept.
"""

import logging
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ensemble.choice.pins import pinned_trials
from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.storage import TEMPORARY, storage_of
from mlflow_setup.schema import EpochRecord, Outcome, update_best
from search.storage.history import PastTrial, read_history
from search.storage.sweep_folder import SweepFolder
from trainable.storage.layout import ENCODERS, QUARANTINE, SHARED

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Garbage:
    """A folder or file that can be deleted."""

    path: Path
    num_bytes: int
    why: str

    def remove(self) -> None:
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink()
        storage_of(self.path).withdraw(self.path)


def find_garbage(folder: SweepFolder, keep_pruned_top: int) -> list[Garbage]:
    """Return the garbage of a sweep, by path. No process may drive the sweep.

    Args:
        keep_pruned_top: a pruned trial keeps its weights while among this many best for a task or
            overall.

    Raises:
        IntegrityError: the record of a chosen ensemble cannot be read.
    """
    history = read_history(folder.trial_folders())
    near = near_top(_best_of(history), keep_pruned_top) | pinned_trials(folder.path)
    garbage = [(path, "left by a crash") for path in folder.path.rglob(f"{TEMPORARY}*")]
    garbage += [(path, "an encoder that no trial uses") for path in _unused_encoders(folder)]
    for past in history:
        garbage += _of_trial(folder, past, near)
    unique = {path: why for path, why in reversed(garbage) if path.exists()}
    return [
        Garbage(path, storage_of(path).num_bytes(path), unique[path]) for path in sorted(unique)
    ]


def _unused_encoders(folder: SweepFolder) -> list[Path]:
    """Return shared encoders that no trial of any sweep uses: no other file is hard-linked to
    them."""
    encoders = (folder.path.parent / SHARED / ENCODERS).glob("*")
    return [path for path in encoders if path.is_file() and path.stat().st_nlink == 1]


def _of_trial(folder: SweepFolder, past: PastTrial, near: set[str]) -> Iterator[tuple[Path, str]]:
    trial = folder.trial(past.name)
    yield trial.checkpoint_dir / QUARANTINE, "a damaged checkpoint"
    if past.outcome is None or not past.is_over:
        return
    outcome = past.outcome.outcome
    if outcome is not Outcome.FAILED:  # a failed trial can be resumed from its checkpoint
        yield trial.checkpoint_dir, f"checkpoint of a trial that has ended ({outcome.value})"
    if outcome in (Outcome.DIVERGED, Outcome.FAILED):
        yield trial.path / "weights", f"weights of a trial that {outcome}"
    elif outcome is Outcome.PRUNED and past.name not in near:
        yield trial.path / "weights", "weights of a trial pruned far from the top"


def _best_of(history: list[PastTrial]) -> dict[str, dict[str, float]]:
    """Return trial -> dev metric -> best over the epochs, of finished and pruned trials."""
    best: dict[str, dict[str, float]] = {past.name: {} for past in history if past.is_scored}
    for past in history:
        for epoch in past.epochs if past.is_scored else ():
            update_best(best[past.name], epoch)
    return best


def near_top(best: Mapping[str, Mapping[str, float]], count: int) -> set[str]:
    """Return the trials among the `count` best by any of their metrics; ties are included."""
    top = _Top(count)
    for trial, scores in best.items():
        top.add(trial, scores)
    return top.near(best)


class _Top:
    """The `count` best trials by each metric, updated as trials get scores."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._best: defaultdict[str, dict[str, float]] = defaultdict(dict)
        """Metric -> trial -> score."""

    def add(self, trial: str, scores: Mapping[str, float]) -> None:
        for metric, score in scores.items() if self.count else ():
            best = self._best[metric]
            best[trial] = score
            if len(best) > self.count:
                del best[min(best, key=best.__getitem__)]

    def near(self, best: Mapping[str, Mapping[str, float]]) -> set[str]:
        """Return those of the trials that are not below the top's lowest score by any metric."""
        lowest = {metric: min(scores.values()) for metric, scores in self._best.items()}
        return {
            trial
            for trial, scores in best.items()
            if any(key in lowest and scores[key] >= lowest[key] for key in scores)
        }


class PrunedWeights:
    """The pruned trials of a sweep that still have their weights, by name.

    These are the trials of `near_top`, updated incrementally: the cost does not grow with the
    number of trials. If the score of a trial in the top falls (as it may when weight averaging
    starts), the trials that it had displaced are not brought back: weights may be kept too long,
    but none is deleted too early.

    Args:
        keep_pruned_top: the `count` of `near_top`.
        mark: called with the name of a trial whose folder has changed.
    """

    def __init__(
        self, folder: SweepFolder, keep_pruned_top: int, mark: Callable[[str], None]
    ) -> None:
        self.folder, self._top, self._mark = folder, _Top(keep_pruned_top), mark
        self.there: set[str] = set()  # names of pruned trials with weights
        self._best: defaultdict[str, dict[str, float]] = defaultdict(dict)
        """Trial -> metric -> best score."""

    def compare(self, trial: str, record: EpochRecord) -> None:
        """Take in an epoch of any trial."""
        update_best(self._best[trial], record)
        self._top.add(trial, self._best[trial])

    def drop(self) -> None:
        """Delete the weights of pruned trials that are not near the top by any metric."""
        weak = self.there - self._top.near({name: self._best[name] for name in self.there})
        for name in sorted(weak - self._members() if weak else weak):
            folder = self.folder.trial(name)
            for epoch in folder.kept_epochs():
                folder.drop_weights(epoch)
            self.there.discard(name)
            self._mark(name)

    def _members(self) -> set[str]:
        """Return the members of chosen ensembles; all pruned trials if a record of one cannot be
        read."""
        try:
            return pinned_trials(self.folder.path)
        except IntegrityError as error:
            _logger.warning("weights of pruned trials are kept: %s", error.problem)
            return set(self.there)
