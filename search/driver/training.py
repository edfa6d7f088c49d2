"""A single training without a search: `ensweep train`.

All trainings in a storage folder are trials of one sweep named `train`: they are mirrored to MLflow
like those of other sweeps, and are in its leaderboard and candidates of ensembles.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ensemble.distillation.teachers import teach
from mlflow_setup.errors import ConfigError, EnsweepError
from mlflow_setup.filesystem.atomic import remove_folder
from mlflow_setup.filesystem.lease import Lease
from mlflow_setup.filesystem.storage import storage_of
from mlflow_setup.runs.background_mirror import BackgroundMirror
from mlflow_setup.runs.query import find_trials
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import (
    CONFIG_ARTIFACT,
    TRAININGS,
    EpochRecord,
    Identity,
    OutcomeRecord,
    RunRecord,
    Tag,
)
from mlflow_setup.tracking.store import Tracking
from search.driver.tracking import view_of
from search.storage.sweep_folder import SWEEP_FILE, SweepFolder
from trainable.config.recipe import Resolved
from trainable.data.dataset import read_dataset
from trainable.runtime.precision import choose_device
from trainable.runtime.stopping import Stop
from trainable.storage.layout import SHARED, STOP_REQUEST
from trainable.storage.trial_folder import TrialFolder
from trainable.training.train import train

_POLL_SECONDS = 1.0  # between checks for a request of `ensweep stop`


@dataclass(frozen=True)
class Trained:
    """The result of a training."""

    trial: TrialFolder
    outcome: OutcomeRecord
    run_id: str | None  # MLflow's; None: the run in MLflow is incomplete


def default_folder(storage: Path, name: str) -> Path:
    """Return the default folder of the training `name`.

    Raises:
        ConfigError: the name cannot be a folder's.
    """
    return SweepFolder(storage, TRAININGS).trial(name).path


def name_of(folder: Path) -> str:
    """Return a run's name for a folder: its name, with characters that are not allowed as `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+|\.{2,}", "-", folder.name).strip("-._")[:100] or "run"


def run_training(
    resolved: Resolved,
    name: str,
    folder: Path,
    storage: Path,
    tracking: Tracking,
    *,
    report: Callable[[EpochRecord], None],
    stop: Stop,
) -> Trained:
    """Train in `folder`, or resume the training in it; tracked from the first step on.

    A training that has ended is left unchanged, and MLflow is updated from its folder.

    Raises:
        ConfigError: MLflow cannot be used, or has a run of this name from another folder, or
            another process trains here; also as `trainable.training.train.train`.
        DataError, IntegrityError, NothingUsableError: as `trainable.training.train.train`.
    """
    config, kept, trial = resolved.config, storage_of(folder), TrialFolder(folder)
    kept.probe()
    dataset = read_dataset(config)
    choose_device(config.train.device)
    _refuse_taken(name, folder, storage, tracking)
    trial.refresh()
    if (folder / CONFIG_ARTIFACT).exists():  # also one that has ended must have these settings
        stored, fingerprint = trial.trial(), dataset.fingerprint
        trial.create(replace(stored, config=config.flat(), data_fingerprint=fingerprint))
    mirrored, is_there = _Mirrored(name, folder, resolved, tracking, stop), folder.exists()

    def on_epoch(record: EpochRecord) -> None:
        mirrored.mark()
        report(record)

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    outcome: OutcomeRecord | None = None
    is_whole = False
    try:
        with Lease(folder, what=f"training {name}"):
            kept.begin(folder)
            trial.refresh()
            kept.lower_flag(folder / STOP_REQUEST)
            try:
                outcome = train(
                    config,
                    folder,
                    identity=Identity(name, TRAININGS, resolved.recipe, resolved.origin),
                    report=on_epoch,
                    stop=mirrored.should_stop,
                    dataset=dataset,
                    shared=storage / SHARED,
                    teach=partial(teach, config, storage / SHARED, tracking, dataset),
                )
            finally:
                is_whole = mirrored.close(outcome)
                kept.lower_flag(folder / STOP_REQUEST)
    except EnsweepError:
        if not (is_there or mirrored.has_begun):
            remove_folder(folder)
        raise
    return Trained(trial, outcome, _run_id(tracking, name) if is_whole else None)


class _Mirrored:
    """The mirror of a training to MLflow, started before the first step: a training that is refused
    earlier creates no run."""

    def __init__(
        self, name: str, folder: Path, resolved: Resolved, tracking: Tracking, stop: Stop
    ) -> None:
        self.name, self.folder, self.resolved, self.stop = name, folder, resolved, stop
        self.has_begun, self._is_requested, self._checked = False, False, 0.0
        trial = TrialFolder(folder)
        self._mirror = BackgroundMirror(Mirror(tracking, TRAININGS), lambda _: trial.snapshot())

    def should_stop(self) -> bool:
        """Whether to stop; called before each step."""
        now = time.monotonic()
        if now - self._checked >= _POLL_SECONDS:
            self._checked = now
            self._is_requested = storage_of(self.folder).is_raised(self.folder / STOP_REQUEST)
            if not self.has_begun:
                self.mark()
        return self._is_requested or self.stop()

    def mark(self) -> None:
        """Mark the folder as changed, and start the mirror if the training has begun."""
        if not self.has_begun and (self.folder / CONFIG_ARTIFACT).exists():
            self.has_begun = True
            tags = {"description": "trainings outside of a search: ensweep train"}
            self._mirror.start(tags, {}, {}, view_of(self.resolved.config))
        if self.has_begun:
            self._mirror.mark(self.name)

    def close(self, outcome: OutcomeRecord | None) -> bool:
        """Finish the run. Return whether MLflow is complete.

        Args:
            outcome: None: the training ended with an error, and may be resumed.
        """
        self.mark()
        has_ended = outcome is not None and outcome.outcome.is_terminal
        status = "FINISHED" if has_ended else "KILLED"
        return self.has_begun and not self._mirror.close(status)


def _refuse_taken(name: str, folder: Path, storage: Path, tracking: Tracking) -> None:
    if (SweepFolder(storage, TRAININGS).path / SWEEP_FILE).exists():
        raise ConfigError(
            f"{storage / TRAININGS}: is a sweep with the name under which trainings are tracked",
            fix="train in another storage folder: --storage DIR",
        )
    tracking.check()
    known = _find(tracking, name)
    other = known and known[-1].tags.get(Tag.WEIGHTS_URI)
    if other and other != storage_of(folder).address((folder / "weights").resolve()):
        raise ConfigError(
            f"a run {name!r} is tracked already, from {other.rpartition('/')[0]}",
            fix="choose another name with --name",
        )


def _find(tracking: Tracking, name: str) -> list[RunRecord]:
    return [run for run in find_trials(tracking, TRAININGS) if run.trial == name]


def _run_id(tracking: Tracking, name: str) -> str:
    return _find(tracking, name)[-1].run_id
