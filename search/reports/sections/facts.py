"""The data of a report, read once: the sweep's folder, and the chosen ensemble from MLflow."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ensemble.choice.tracking import Record, read_record
from mlflow_setup.errors import EnsweepError, NothingUsableError
from mlflow_setup.runs.projection import with_best
from mlflow_setup.runs.query import ChoiceRecord, latest_choice
from mlflow_setup.runs.usage import USAGE, usage_of
from mlflow_setup.schema import RUN_STATUS, RunRecord, Tag, TrialSnapshot
from mlflow_setup.text import setting_text
from mlflow_setup.tracking.store import Tracking
from search.config.baselines import BASELINES
from search.config.sweep_config import SweepConfig
from search.reports.leaderboard import Row, leaderboard
from search.storage.history import PastTrial, read_history
from search.storage.sweep_folder import SweepFolder
from trainable.config.parse import from_flat
from trainable.config.tasks import Task


@dataclass(frozen=True)
class Choice:
    """A chosen ensemble that was logged to MLflow."""

    run: ChoiceRecord
    record: Record


@dataclass(frozen=True)
class Facts:
    """A sweep's trials, its leaderboard and its chosen ensemble."""

    folder: SweepFolder
    sweep: SweepConfig
    history: tuple[PastTrial, ...]  # in the order in which they were suggested; baselines last
    rows: tuple[Row, ...]  # of the leaderboard
    choice: Choice | None
    no_choice: str  # why there is none, in one line
    tracking: Tracking
    cache: Path  # for files from a tracking server

    @property
    def trials(self) -> list[PastTrial]:
        """The trials without the baselines."""
        return [past for past in self.history if past.record.recipe not in BASELINES]

    @property
    def baselines(self) -> list[PastTrial]:
        return [past for past in self.history if past.record.recipe in BASELINES]

    @cached_property
    def scored(self) -> list[PastTrial]:
        """The trials that have completed an epoch."""
        return [past for past in self.trials if past.epochs]

    @cached_property
    def best(self) -> PastTrial | None:
        """The trial with the best overall in any epoch; a baseline if no other has a score."""
        scored = self.scored or [past for past in self.baselines if past.epochs]
        return max(scored, key=lambda past: past.best_values[-1], default=None)

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The evaluated tasks of all trials."""
        tasks: dict[str, Task] = {}
        for past in self.history:
            for name, task in from_flat(past.record.config).task_records().items():
                if task.is_evaluated:
                    tasks.setdefault(name, task)
        return tasks


def read_facts(folder: SweepFolder, tracking: Tracking, cache: Path) -> Facts:
    """Read the sweep and its latest choice, which is None if the tracking server is unreachable.

    Raises:
        NothingUsableError: there is no such sweep, or none of its trials has begun.
        IntegrityError: its file, or a trial's record, is damaged.
    """
    sweep, folders = folder.read(), folder.trial_folders()
    if not folders:
        raise NothingUsableError(
            f"sweep {folder.name}: no trial has begun", fix=folder.command("resume")
        )
    choice, why = _choice(folder, tracking, cache)
    runs = [_as_run(trial.snapshot()) for trial in folders]
    if choice is not None:
        runs = _with_run_ids(runs, choice)
    rows = leaderboard(runs, None if choice is None else choice.run)
    return Facts(
        folder, sweep, tuple(read_history(folders)), tuple(rows), choice, why, tracking, cache
    )


def _choice(folder: SweepFolder, tracking: Tracking, cache: Path) -> tuple[Choice | None, str]:
    command = folder.command("ensemble")
    try:
        run = latest_choice(tracking, folder.name)
        if run is None:
            return None, f"no ensemble has been chosen yet: {command}"
        return Choice(run, read_record(tracking, run.run_id, cache)), ""
    except EnsweepError as error:
        return None, f"the choice cannot be read: {error.problem}"


def _as_run(snapshot: TrialSnapshot) -> RunRecord:
    """Return the run that the trial has in MLflow, made from its folder."""
    record, outcome = snapshot.record, snapshot.outcome
    metrics: dict[str, float] = {}
    for _, of_epoch in with_best(snapshot.epochs):
        metrics |= of_epoch
    if snapshot.attempts:
        metrics |= {f"{USAGE}{k}": v for k, v in vars(usage_of(snapshot.attempts)).items()}
    tags = {Tag.RECIPE.value: record.recipe, Tag.WEIGHTS_URI.value: snapshot.weights_uri}
    tags[Tag.NOTES.value] = json.dumps(record.notes)
    if outcome is not None:
        tags |= {Tag.REASON.value: outcome.reason, Tag.NUM_EPOCHS.value: str(outcome.epoch)}
    params = {key: setting_text(value) for key, value in record.config.items()}
    how = None if outcome is None else outcome.outcome
    status = "RUNNING" if how is None else RUN_STATUS[how]
    return RunRecord(record.trial, record.trial, record.sweep, status, how, params, metrics, tags)


def _with_run_ids(runs: Sequence[RunRecord], choice: Choice) -> list[RunRecord]:
    """Return the runs, those of members with the run ids that the choice has."""
    ids = {
        member.candidate.trial: member.candidate.run_id
        for task in choice.record.choice.tasks.values()
        for member in task.selective.members
    }
    return [replace(run, run_id=ids.get(run.trial, run.run_id)) for run in runs]
