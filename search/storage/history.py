"""What a sweep's folder remembers: the sweep as asked for, its extensions, and every past trial.

From this alone a driver goes on: the study, the rungs and the unfinished trials are rebuilt from
what `read_history` returns. Whole JSON objects; nothing is unpickled.
"""

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from mlflow_setup.errors import ConfigError, IntegrityError, NothingUsableError
from mlflow_setup.filesystem.atomic import must_write, remove_leftovers, write_atomic
from mlflow_setup.filesystem.paths import safe_name
from mlflow_setup.schema import (
    CONFIG_ARTIFACT,
    OVERALL,
    STOP,
    Decision,
    EpochRecord,
    Outcome,
    OutcomeRecord,
    TrialRecord,
    TrialSnapshot,
)
from search.config.load import resolve_sweep
from search.config.sweep_config import SweepConfig
from search.storage.lease import LEASE_FILE, living_driver, refusal
from search.storage.relocation import relocated
from trainable.config.parse import from_flat
from trainable.config.strict_yaml import read_settings
from trainable.storage.layout import STOP_FILE, TRIALS
from trainable.storage.trial_folder import TrialFolder
from trainable.training.stages import total_epochs

SWEEP_FILE, EXTENSIONS = "sweep.yaml", "extensions"
STORAGE = "storage"
"""Key of the sweep's file: the folder that the sweep was begun in. Paths below it are found below
the folder in which the sweep lies now."""


@dataclass(frozen=True)
class PastTrial:
    """A trial as its folder tells it."""

    record: TrialRecord
    epochs: tuple[EpochRecord, ...]
    decisions: tuple[Decision, ...]
    outcome: OutcomeRecord | None

    @property
    def name(self) -> str:
        return self.record.trial

    @property
    def number(self) -> int | None:
        """Its place in the sweep, from 0; None where the name has none."""
        digits = self.name.partition("-")[0]
        return int(digits) - 1 if digits.isdecimal() and int(digits) > 0 else None

    @property
    def is_over(self) -> bool:
        """Whether it will not run on."""
        return self.outcome is not None and self.outcome.outcome.is_terminal

    @property
    def is_scored(self) -> bool:
        """Whether its values count: it ran to its end, or was stopped by the scheduler."""
        return self.outcome is not None and self.outcome.outcome in (
            Outcome.FINISHED,
            Outcome.PRUNED,
        )

    @cached_property
    def num_epochs(self) -> int:
        """The epochs that it would run."""
        return total_epochs(from_flat(self.record.config))

    @cached_property
    def best_values(self) -> tuple[float, ...]:
        """The best overall so far, after each epoch."""
        return tuple(accumulate((epoch.metrics[OVERALL] for epoch in self.epochs), max))

    def best(self, metric: str) -> float | None:
        """The best of a dev metric over the epochs; None where the trial does not have it."""
        values = [epoch.metrics[metric] for epoch in self.epochs if metric in epoch.metrics]
        return max(values, default=None)

    @property
    def stop_decision(self) -> Decision | None:
        """The scheduler's word that the trial is to stop, or None."""
        return next((word for word in self.decisions if word.action == STOP), None)


class SweepFolder:
    """Reads and writes `<storage>/<sweep>`."""

    def __init__(self, storage: Path, name: str) -> None:
        self.path = storage.resolve() / safe_name(name, "sweep")
        self.name = name

    @property
    def stop_file(self) -> Path:
        """There while every trial is to stop at its next step."""
        return self.path / STOP_FILE

    def create(self, sweep: SweepConfig) -> None:
        """Raises ConfigError when the folder is there already (with its driver's name, should it
        have one) or cannot be written."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            raise self.taken() from None
        except OSError as error:
            fix = "set --storage"
            raise ConfigError(f"{self.path}: cannot be made: {error}", fix=fix) from None
        try:
            with must_write(self.path):
                content = {STORAGE: str(self.path.parent), **sweep.to_file()}
                write_atomic(self.path / SWEEP_FILE, json.dumps(content, indent=1) + "\n")
        except ConfigError:
            shutil.rmtree(self.path, ignore_errors=True)  # the name is free again
            raise

    def taken(self) -> ConfigError:
        """What is said to who wants to begin a sweep of this name. Waits seconds to see whether
        the lease that it finds moves."""
        driver = living_driver(self.path)
        if driver is not None:
            return refusal(self.path / LEASE_FILE, driver)
        return name_taken(f"{self.name!r} already exists: {self.path}", self.name)

    def has_begun(self) -> bool:
        """Whether there is such a sweep. What a driver left that died while it made the folder is
        none, and is removed."""
        if (self.path / SWEEP_FILE).is_file():
            return True
        with suppress(OSError):  # there is none, or something else is in it
            remove_leftovers(self.path)
            self.path.rmdir()
        return False

    def read(self) -> SweepConfig:
        """The sweep as it was asked for, with the trials that it was extended by.

        Raises:
            NothingUsableError: there is no such sweep.
            IntegrityError: its file or an extension is damaged.
        """
        file = self.path / SWEEP_FILE
        if not file.is_file():
            raise NothingUsableError(
                f"no sweep {self.name!r} in {self.path.parent}",
                fix="--storage names the folder with the sweeps",
            )
        content = _content(file)
        old = Path(content.pop(STORAGE, self.path.parent))
        sweep = resolve_sweep(content, file, (), {})
        if old != self.path.parent:
            sweep = sweep.map_settings(lambda given: relocated(given, old, self.path.parent))
        num_samples = sweep.search.num_samples + sum(map(_read_extension, self._extensions()))
        search = sweep.search.model_copy(update={"num_samples": num_samples})
        return sweep.model_copy(update={"name": self.name, "search": search})

    def extend(self, num_samples: int) -> None:
        """Ask for that many more trials; raises ConfigError when that cannot be written down."""
        path = self.path / EXTENSIONS / f"{len(self._extensions()) + 1:04d}.json"
        with must_write(path):
            write_atomic(path, json.dumps({"num_samples": num_samples}) + "\n")

    def trial_folders(self) -> list[TrialFolder]:
        """The trials that have begun, by name."""
        found = sorted(path.parent for path in (self.path / TRIALS).glob(f"*/{CONFIG_ARTIFACT}"))
        return [TrialFolder(path) for path in found]

    def trial(self, name: str) -> TrialFolder:
        return TrialFolder(self.path / TRIALS / safe_name(name, "trial"))

    def snapshots(self) -> tuple[TrialSnapshot, ...]:
        return tuple(folder.snapshot() for folder in self.trial_folders())

    def _extensions(self) -> list[Path]:
        return sorted((self.path / EXTENSIONS).glob("[0-9]*.json"))


def read_history(folders: Sequence[TrialFolder]) -> list[PastTrial]:
    """The trials in these folders, in the order in which they were suggested.

    Raises:
        IntegrityError: the record of a trial is damaged.
    """
    sweeps = {folder.path.parents[1] for folder in folders}
    begun_in = {path: _storage_at_begin(path) for path in sweeps}
    trials = [
        _relocated(past_trial(folder), begun_in[folder.path.parents[1]], folder.path.parents[2])
        for folder in folders
    ]
    return sorted(trials, key=lambda past: (past.number is None, past.number or 0, past.name))


def _storage_at_begin(sweep: Path) -> Path:
    """The storage folder that the sweep in the folder `sweep` was begun in."""
    file = sweep / SWEEP_FILE
    content = _content(file) if file.is_file() else {}
    return Path(content.get(STORAGE, sweep.parent))


def _relocated(past: PastTrial, old: Path, new: Path) -> PastTrial:
    if old == new:
        return past
    record = replace(past.record, config=relocated(past.record.config, old, new))
    return replace(past, record=record)


def past_trial(folder: TrialFolder) -> PastTrial:
    """The trial in `folder`; raises IntegrityError when its record is damaged."""
    return PastTrial(
        folder.trial(), tuple(folder.epochs()), tuple(folder.decisions()), folder.outcome()
    )


def finish_decided(folder: SweepFolder) -> None:
    """Trials that need no process any more to have an outcome: those that the scheduler had
    stopped when their driver died, and those that ran to their end and whose outcome is damaged.

    Raises:
        ConfigError: an outcome cannot be written.
    """
    for trial in folder.trial_folders():
        past = past_trial(trial)
        word, epoch = past.stop_decision, len(past.epochs)
        if past.is_over or (word is None and not _has_lost_its_outcome(trial, past)):
            continue
        how = (Outcome.PRUNED, word.reason) if word else (Outcome.FINISHED, f"ran {epoch} epochs")
        with must_write(trial.path):
            trial.write_outcome(OutcomeRecord(*how, epoch, time.time()))
            trial.drop_checkpoint()


def _has_lost_its_outcome(trial: TrialFolder, past: PastTrial) -> bool:
    """A trial that is under way has a checkpoint, and one that was stopped an outcome."""
    has_ended = len(past.epochs) == past.num_epochs and past.outcome is None
    return has_ended and trial.outcome_path.exists() and not trial.checkpoint_dir.exists()


def latest_sweep(storage: Path) -> str:
    """The sweep whose folder was worked in last.

    Raises:
        NothingUsableError: there is none.
    """
    folders = [path.parent for path in storage.glob(f"*/{SWEEP_FILE}")]
    if not folders:
        raise NothingUsableError(
            f"no sweep in {storage}", fix="--storage names the folder with the sweeps"
        )
    return max(folders, key=lambda folder: (_last_change(folder), folder.name)).name


def name_taken(how: str, name: str) -> ConfigError:
    """Two sweeps never share a folder, nor a name in MLflow."""
    fix = f"choose another name with --name, or go on with it: ensweep resume {name}"
    return ConfigError(f"sweep {how}", fix=fix)


def _last_change(folder: Path) -> int:
    trials = folder / TRIALS
    return (trials if trials.is_dir() else folder).stat().st_mtime_ns


def _content(file: Path) -> dict[str, Any]:
    fix = f"put its copy in its place: the artifact {SWEEP_FILE} of the sweep's run in MLflow"
    try:
        content = read_settings(file)
    except ConfigError as error:
        raise IntegrityError(error.problem, fix=fix) from None
    if not content:
        raise IntegrityError(f"{file}: is empty", fix=fix)
    return content


def _read_extension(path: Path) -> int:
    fix = 'write {"num_samples": N} into it, or remove it: those trials are then not run'
    try:
        num_samples = json.loads(path.read_text(encoding="utf-8"))["num_samples"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: not an extension: {error}", fix=fix) from None
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        problem = f"{path}: num_samples must be a positive integer, got {num_samples}"
        raise IntegrityError(problem, fix=fix)
    return num_samples
