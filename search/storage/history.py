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
    eligible_epochs,
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
            epoch.metrics[metric]
            for epoch in eligible_epochs(self.epochs)
            if metric in epoch.metrics
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


def history_to_resume(folder: SweepFolder, *, retry_failed: bool = False) -> list[PastTrial]:
    """The trials as the next driver takes them up. Writes nothing: `write_history` does that.

    A trial that the scheduler had stopped when its driver died has an outcome here, as has one
    that ran to its end and whose outcome is damaged.

    Args:
        retry_failed: failed trials have no outcome here, so they run again.

    Raises:
        IntegrityError: the record of a trial is damaged.
    """
    history = read_history(folder.trial_folders())
    return [_taken_up(folder.trial(past.name), past, retry_failed) for past in history]


def write_history(folder: SweepFolder, history: Iterable[PastTrial]) -> None:
    """Make the trials' folders agree with `history_to_resume`. After a storage folder was renamed,
    unfinished trials get its new path: a trial resumes only with the settings in its record.

    Raises:
        ConfigError: a record cannot be written.
    """
    for past in history:
        trial = folder.trial(past.name)
        stored = trial.outcome()
        with must_write(trial.path):
            if not past.is_over and trial.trial().config != past.record.config:
                trial.relocate(past.record)
            if past.outcome is None and stored is not None:
                trial.drop_outcome()
            elif past.outcome is not None and past.outcome != stored:
                trial.write_outcome(past.outcome)
                trial.drop_checkpoint()


def _taken_up(trial: TrialFolder, past: PastTrial, retry_failed: bool) -> PastTrial:
    stop, epoch = past.stop_decision, len(past.epochs)
    if past.is_over and not (retry_failed and past.ended is Outcome.FAILED):
        return past
    if stop is not None:
        outcome = OutcomeRecord(Outcome.PRUNED, stop.reason, epoch, time.time())
    elif _has_lost_its_outcome(trial, past):
        said = f"ran {counted(epoch, 'epoch')}"
        outcome = OutcomeRecord(Outcome.FINISHED, said, epoch, time.time())
    else:
        return replace(past, outcome=None) if past.ended is Outcome.FAILED else past
    return replace(past, outcome=outcome)


def _has_lost_its_outcome(trial: TrialFolder, past: PastTrial) -> bool:
    """A trial that is under way has a checkpoint, and one that was stopped an outcome."""
    has_ended = len(past.epochs) == past.num_epochs and past.outcome is None
    return has_ended and trial.outcome_path.exists() and not trial.checkpoint_dir.exists()
