"""The past trials of a sweep, read from their folders.

A driver resumes a sweep from these and the sweep's file: the study, the rungs and the unfinished
trials are rebuilt from the result of `read_history`.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from mlflow_setup.filesystem.atomic import must_write
from mlflow_setup.schema import (
    OVERALL,
    PAUSE,
    STOP,
    Decision,
    EpochRecord,
    Outcome,
    OutcomeRecord,
    TrialRecord,
    judged_epochs,
)
from mlflow_setup.text import counted
from search.storage.relocation import relocated
from search.storage.sweep_folder import SWEEP_FILE, SweepFolder, begun_in, content_of
from trainable.config.parse import from_flat
from trainable.storage.trial_folder import TrialFolder
from trainable.training.stages import num_probe_epochs, total_epochs


@dataclass(frozen=True)
class PastTrial:
    """A trial as it is in its folder."""

    record: TrialRecord
    epochs: tuple[EpochRecord, ...]
    decisions: tuple[Decision, ...]
    outcome: OutcomeRecord | None

    @property
    def name(self) -> str:
        return self.record.trial

    @property
    def number(self) -> int | None:
        """Its number in the sweep, from 0; None if the name has none, as that of a baseline."""
        digits = self.name.partition("-")[0]
        return int(digits) - 1 if digits.isdecimal() and int(digits) > 0 else None

    @property
    def ended(self) -> Outcome | None:
        """Its outcome; None while it has none."""
        return None if self.outcome is None else self.outcome.outcome

    @property
    def is_over(self) -> bool:
        """Whether it has ended for good."""
        return self.ended is not None and self.ended.is_terminal

    @property
    def is_scored(self) -> bool:
        """Whether its scores count: it finished, or was stopped by the scheduler."""
        return self.ended in (Outcome.FINISHED, Outcome.PRUNED)

    @property
    def is_paused(self) -> bool:
        """Whether the scheduler paused it at a rung: it may be promoted, and then continues from
        its checkpoint."""
        last = self.decisions[-1] if self.decisions else None
        is_last = last is not None and last.action == PAUSE and last.epoch == len(self.epochs)
        return is_last and self.ended in (None, Outcome.STOPPED, Outcome.PRUNED)

    @cached_property
    def num_epochs(self) -> int:
        """Its length in epochs if it is not stopped."""
        return total_epochs(from_flat(self.record.config))

    @cached_property
    def num_probe_epochs(self) -> int:
        """How many of these, at the start, train only the heads."""
        return num_probe_epochs(from_flat(self.record.config))

    @cached_property
    def best_values(self) -> tuple[float, ...]:
        """The best overall so far, after each epoch."""
        return tuple(accumulate((epoch.metrics[OVERALL] for epoch in self.epochs), max))

    def best(self, metric: str) -> float | None:
        """Return the best of a dev metric over the epochs; None if the trial does not have it."""
        values = [
            epoch.metrics[metric] for epoch in judged_epochs(self.epochs) if metric in epoch.metrics
        ]
        return max(values, default=None)

    @property
    def stop_decision(self) -> Decision | None:
        """The scheduler's decision to stop the trial, or None."""
        return next((each for each in self.decisions if each.action == STOP), None)


def read_history(folders: Sequence[TrialFolder]) -> list[PastTrial]:
    """Read the trials in these folders, in the order in which they were suggested.

    Raises:
        IntegrityError: the record of a trial is damaged.
    """
    sweeps = {folder.path.parents[1] for folder in folders}
    storages = {path: _storage_at_begin(path) for path in sweeps}
    trials = [
        _relocated(past_trial(folder), storages[folder.path.parents[1]], folder.path.parents[2])
        for folder in folders
    ]
    return sorted(trials, key=lambda past: (past.number is None, past.number or 0, past.name))


def _storage_at_begin(sweep: Path) -> Path:
    """Return the storage folder in which the sweep in the folder `sweep` was begun."""
    file = sweep / SWEEP_FILE
    return begun_in(content_of(file) if file.is_file() else {}, sweep.parent)


def _relocated(past: PastTrial, old: Path, new: Path) -> PastTrial:
    if old == new:
        return past
    record = replace(past.record, config=relocated(past.record.config, old, new))
    return replace(past, record=record)


def past_trial(folder: TrialFolder) -> PastTrial:
    """Read the trial in `folder`; raises IntegrityError if its record is damaged."""
    return PastTrial(
        folder.trial(), tuple(folder.epochs()), tuple(folder.decisions()), folder.outcome()
    )


def settle_in(folder: SweepFolder, history: Iterable[PastTrial]) -> None:
    """Have unfinished trials of a storage folder that was renamed name its new place: a trial goes
    on only with the settings that its record has.

    Raises:
        ConfigError: a record cannot be written.
    """
    for past in history:
        trial = folder.trial(past.name)
        if not past.is_over and trial.trial().config != past.record.config:
            with must_write(trial.path):
                trial.relocate(past.record)


def reopen_failed(folder: SweepFolder) -> None:
    """Have the trials that failed run again under the next driver.

    Raises:
        ConfigError: an outcome cannot be removed.
    """
    for trial in folder.trial_folders():
        ended = trial.outcome()
        if ended is not None and ended.outcome is Outcome.FAILED:
            with must_write(trial.path):
                trial.drop_outcome()


def finish_decided(folder: SweepFolder) -> None:
    """Trials that need no process any more to have an outcome: those that the scheduler had
    stopped when their driver died, and those that ran to their end and whose outcome is damaged.

    Raises:
        ConfigError: an outcome cannot be written.
    """
    for trial in folder.trial_folders():
        past = past_trial(trial)
        stop, epoch = past.stop_decision, len(past.epochs)
        if past.is_over or (stop is None and not _has_lost_its_outcome(trial, past)):
            continue
        how = (
            (Outcome.PRUNED, stop.reason)
            if stop
            else (Outcome.FINISHED, f"ran {counted(epoch, 'epoch')}")
        )
        with must_write(trial.path):
            trial.write_outcome(OutcomeRecord(*how, epoch, time.time()))
            trial.drop_checkpoint()


def _has_lost_its_outcome(trial: TrialFolder, past: PastTrial) -> bool:
    """A trial that is under way has a checkpoint, and one that was stopped an outcome."""
    has_ended = len(past.epochs) == past.num_epochs and past.outcome is None
    return has_ended and trial.outcome_path.exists() and not trial.checkpoint_dir.exists()
