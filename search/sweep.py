"""Run a sweep: data and tracking proved first, then Tune, then the books balanced.

State is the sweep's folder; Tune only starts, places, stops and restarts trials.
"""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from rich.console import Console

from mlflow_setup.errors import ConfigError, PartialError
from mlflow_setup.files import safe_name, write_atomic
from mlflow_setup.mirror import Mirror
from mlflow_setup.runs import sweep_names
from mlflow_setup.schema import (
    CONFIG_ARTIFACT,
    OVERALL,
    Outcome,
    OutcomeRecord,
    TrialSnapshot,
)
from mlflow_setup.tracking import Tracking
from search.callbacks import SweepCallback
from search.cluster import cluster, environment, find_slots, terminable
from search.prepare import prepare
from search.progress import Progress
from search.scheduler import Rung, SuccessiveHalving, TuneScheduler
from search.searcher import OptunaSearcher
from search.sweep_config import SweepConfig, TrialSettings
from trainable.config import Config, from_flat
from trainable.dataset import read_dataset
from trainable.record import TrialFolder
from trainable.trial import TRIALS, Place, Train, make_trainable

SWEEP_FILE = "sweep.yaml"
_TUNE_FOLDER = ".tune"
_MAX_FAILURES = 1


@dataclass(frozen=True)
class SweepResult:
    """What came of a sweep."""

    name: str
    folder: Path
    trials: tuple[TrialSnapshot, ...]  # by name
    rungs: tuple[Rung, ...]
    unsynced: tuple[str, ...]  # trials that MLflow has missed

    def ended(self, outcome: Outcome) -> list[str]:
        """The trials that ended so."""
        return [
            trial.record.trial
            for trial in self.trials
            if trial.outcome is not None and trial.outcome.outcome is outcome
        ]

    @property
    def best(self) -> tuple[str, int, float] | None:
        """Trial, epoch and value of the best overall among finished and pruned trials."""
        found = [
            (trial.record.trial, epoch.epoch, epoch.metrics[OVERALL])
            for trial in self.trials
            if trial.outcome and trial.outcome.outcome in (Outcome.FINISHED, Outcome.PRUNED)
            for epoch in trial.epochs
        ]
        return max(found, key=lambda item: item[2], default=None)  # the earliest wins a tie


def run_sweep(
    sweep: SweepConfig,
    name: str,
    storage: Path,
    tracking: Tracking,
    *,
    console: Console | None = None,
    train: Train | None = None,
) -> SweepResult:
    """Run all trials of `sweep` in `<storage>/<name>`; returns when each has ended.

    Args:
        console: where progress is shown; stderr unless given.
        train: trains one trial; the real one unless a test brings its own.

    Raises:
        ConfigError: the name is taken, tracking cannot be reached, or no trial would ever fit.
        DataError: the data of some trial has errors; nothing has been started then.
    """
    storage = storage.resolve()
    folder = storage / safe_name(name, "sweep")
    _read_data(sweep)
    _refuse_taken(folder, tracking)
    mirror = Mirror(tracking, name)
    scheduler = TuneScheduler(_halving(sweep))
    is_ours = has_ended = False
    try:
        with environment(), cluster() as total, terminable():
            slots = find_slots(sweep.resources, total)
            _make_folder(sweep, folder)
            is_ours = True
            _start_mirror(mirror, sweep, folder)
            place = Place(storage, name, sweep.resources.cpus_per_trial, slots.gpus_per_trial > 0)
            concurrency = min(slots.max_concurrent_trials, sweep.search.num_samples)
            shown = console or Console(stderr=True)
            needs = {"CPU": sweep.resources.cpus_per_trial, "GPU": slots.gpus_per_trial}
            if train is None:
                prepare(_known_configs(sweep), place, tracking, needs, shown)
            with Progress(shown, sweep.search.num_samples, concurrency) as progress:
                callback = SweepCallback(place, mirror, scheduler, progress, sweep.keep_pruned_top)
                trainable = tune.with_resources(make_trainable(place, train), needs)
                _run_tune(sweep, folder, trainable, scheduler, callback, concurrency)
        has_ended = True
    finally:  # Ray is down: nobody writes into the trials' folders any more
        if is_ours:
            _settle(mirror, folder, "FINISHED" if has_ended else "KILLED")
    rungs = tuple(scheduler.halving.rungs) if scheduler.halving else ()
    return SweepResult(name, folder, _snapshots(folder), rungs, tuple(sorted(mirror.dirty)))


def _run_tune(
    sweep: SweepConfig,
    folder: Path,
    trainable: Any,
    scheduler: TuneScheduler,
    callback: SweepCallback,
    max_concurrent_trials: int,
) -> None:
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearcher(sweep),
            scheduler=scheduler,
            num_samples=sweep.search.num_samples,
            max_concurrent_trials=max_concurrent_trials,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=_TUNE_FOLDER,
            storage_path=str(folder),
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=_MAX_FAILURES),
            verbose=0,
        ),
    ).fit()


def _read_data(sweep: SweepConfig) -> None:
    """Data errors end a sweep before it starts, once for each way that its trials read data."""
    seen: list[tuple[object, ...]] = []
    for config in _known_configs(sweep):
        what = (config.data, config.tasks, config.seed)
        if what not in seen:
            seen.append(what)
            read_dataset(config)


def _known_configs(sweep: SweepConfig) -> list[Config]:
    """The configurations that are known before the search draws: those of the first trials, and
    the base of the others, if there are others."""
    num_first = len(sweep.first_trials)
    starts: list[TrialSettings] = [sweep.first(number)[0] for number in range(num_first)]
    if sweep.search.num_samples > num_first:
        starts.append(sweep.base())
    return [from_flat(start.settings) for start in starts]


def _refuse_taken(folder: Path, tracking: Tracking) -> None:
    """Two sweeps never share a folder, nor a name in MLflow."""
    if folder.exists():
        raise _taken(f"{folder.name!r} already exists: {folder}")
    tracking.check()
    if folder.name in sweep_names(tracking):
        raise _taken(f"{folder.name!r} is already tracked in MLflow")


def _make_folder(sweep: SweepConfig, folder: Path) -> None:
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise _taken(f"{folder.name!r} already exists: {folder}") from None
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error}", fix="set --storage") from None
    write_atomic(folder / SWEEP_FILE, json.dumps(sweep.to_file(), indent=1) + "\n")


def _taken(how: str) -> ConfigError:
    return ConfigError(f"sweep {how}", fix="choose another name with --name")


def _start_mirror(mirror: Mirror, sweep: SweepConfig, folder: Path) -> None:
    params = {
        f"{section}.{key}": value
        for section in ("search", "scheduler", "resources")
        for key, value in getattr(sweep, section).model_dump(mode="json").items()
    }
    with suppress(PartialError):  # the first projection does it then
        mirror.start(
            {"recipe": sweep.recipe, "description": sweep.description},
            {"sweep": sweep.name, **params},
            {SWEEP_FILE: folder / SWEEP_FILE},
        )


def _halving(sweep: SweepConfig) -> SuccessiveHalving | None:
    if sweep.scheduler.name == "none":
        return None
    return SuccessiveHalving(sweep.scheduler.grace_period, sweep.scheduler.reduction_factor)


def _settle(mirror: Mirror, folder: Path, status: str) -> None:
    """The last word on every trial: none is left RUNNING. `mirror.dirty` is what MLflow missed."""
    for path in _trial_folders(folder):
        trial = TrialFolder(path)
        if trial.outcome() is None:
            reason, epoch = "the sweep was interrupted", len(trial.epochs())
            trial.write_outcome(OutcomeRecord(Outcome.STOPPED, reason, epoch, time.time()))
            mirror.try_project(trial.snapshot())
        elif path.name in mirror.dirty:
            mirror.try_project(trial.snapshot())
    try:
        mirror.finish(status)
    except PartialError:
        mirror.dirty.add(mirror.sweep)


def _snapshots(folder: Path) -> tuple[TrialSnapshot, ...]:
    return tuple(TrialFolder(path).snapshot() for path in _trial_folders(folder))


def _trial_folders(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / TRIALS).glob(f"*/{CONFIG_ARTIFACT}"))


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial"])
