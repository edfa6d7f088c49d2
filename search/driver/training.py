"""One training outside of any search, as a run like any other: `ensweep train`.

All of a storage folder are the trials of one sweep, `train`: projected onto MLflow as those of
other sweeps are, on its leaderboard, and candidates of ensembles.
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

_LOOK_SECONDS = 1.0  # between looks for a request of `ensweep stop`


@dataclass(frozen=True)
class Trained:
    """The result of a training."""

    trial: TrialFolder
    outcome: OutcomeRecord
    run_id: str | None  # MLflow's; None: it has missed some of it


def default_folder(storage: Path, name: str) -> Path:
    """Where the training of that name lies, unless the user says so.

    Raises:
        ConfigError: no folder can have the name.
    """
    return SweepFolder(storage, TRAININGS).trial(name).path


def name_of(folder: Path) -> str:
    """The name of a run in a folder of the user's: what of the folder's is letters and digits."""
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
    """Train in `folder`, or go on with it; tracked from the first step on.

    A training that has ended is left as it is, and MLflow is brought up to it.

    Raises:
        ConfigError: MLflow cannot be used or has such a run of another folder, another process is
            at this one; and as `trainable.training.train.train`.
        DataError, IntegrityError, NothingUsableError: as there.
    """
    config, kept, trial = resolved.config, storage_of(folder), TrialFolder(folder)
    kept.probe()
    dataset = read_dataset(config)
    choose_device(config.train.device)
    _refuse_taken(name, folder, storage, tracking)
    trial.refresh()
    if (folder / CONFIG_ARTIFACT).exists():  # one that has ended is held to its settings too
        stored, fingerprint = trial.trial(), dataset.fingerprint
        trial.create(replace(stored, config=config.flat(), data_fingerprint=fingerprint))
    mirrored, is_there = _Mirrored(name, folder, resolved, tracking, stop), folder.exists()

    def note(record: EpochRecord) -> None:
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
                    report=note,
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
    """MLflow's side of a training: made once its first step is at hand, so that what is refused
    before it takes no name."""

    def __init__(
        self, name: str, folder: Path, resolved: Resolved, tracking: Tracking, stop: Stop
    ) -> None:
        self.name, self.folder, self.resolved, self.stop = name, folder, resolved, stop
        self.has_begun, self._is_asked, self._looked = False, False, 0.0
        trial = TrialFolder(folder)
        self._mirror = BackgroundMirror(Mirror(tracking, TRAININGS), lambda _: trial.snapshot())

    def should_stop(self) -> bool:
        """Asked before each step."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self._is_asked = storage_of(self.folder).is_raised(self.folder / STOP_REQUEST)
            if not self.has_begun:
                self.mark()
        return self._is_asked or self.stop()

    def mark(self) -> None:
        """The folder has changed, or may have."""
        if not self.has_begun and (self.folder / CONFIG_ARTIFACT).exists():
            self.has_begun = True
            tags = {"description": "trainings outside of a search: ensweep train"}
            self._mirror.start(tags, {}, {}, view_of(self.resolved.config))
        if self.has_begun:
            self._mirror.mark(self.name)

    def close(self, outcome: OutcomeRecord | None) -> bool:
        """Whether MLflow has all of it. None: it ended by an error, and may go on."""
        self.mark()
        has_ended = outcome is not None and outcome.outcome.is_terminal
        status = "FINISHED" if has_ended else "KILLED"
        return self.has_begun and not self._mirror.close(status)


def _refuse_taken(name: str, folder: Path, storage: Path, tracking: Tracking) -> None:
    if (SweepFolder(storage, TRAININGS).path / SWEEP_FILE).exists():
        raise ConfigError(
            f"{storage / TRAININGS}: holds a sweep of the name that trainings are tracked under",
            fix="train in another storage folder: --storage DIR",
        )
    tracking.check()
    known = _find(tracking, name)
    other = known and known[-1].tags.get(Tag.WEIGHTS_URI)
    if other and other != storage_of(folder).address((folder / "weights").resolve()):
        raise ConfigError(
            f"a run {name!r} is tracked already, of {other.rpartition('/')[0]}",
            fix="choose another name with --name",
        )


def _find(tracking: Tracking, name: str) -> list[RunRecord]:
    return [run for run in find_trials(tracking, TRAININGS) if run.trial == name]


def _run_id(tracking: Tracking, name: str) -> str:
    return _find(tracking, name)[-1].run_id
