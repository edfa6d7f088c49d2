"""Run a sweep: data and tracking proved first, then Tune, then the books balanced.

State is the sweep's folder; Tune only starts, places, stops and restarts trials.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ray
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
from search.progress import Progress
from search.scheduler import Rung, SuccessiveHalving, TuneScheduler
from search.searcher import OptunaSearcher
from search.sweep_config import Resources, SweepConfig, TrialSettings
from trainable.config import Config, from_flat
from trainable.dataset import read_dataset
from trainable.record import TrialFolder
from trainable.trial import TRIALS, Place, Train, make_trainable

SWEEP_FILE = "sweep.yaml"
STOPPED_EXIT_CODE = 75
_TUNE_FOLDER = ".tune"
_MAX_FAILURES = 1
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # progress is shown here
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the sweep here, not in Tune
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the reason is in the trial's outcome
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # nothing of Tune's own state is read back
}


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
    _claim(sweep, folder, tracking)
    mirror = Mirror(tracking, name)
    _start_mirror(mirror, sweep, folder)
    scheduler = TuneScheduler(_halving(sweep))
    finished = False
    try:
        with _environment(), _cluster() as total, _terminable():
            slots = find_slots(sweep.resources, total)
            place = Place(storage, name, sweep.resources.cpus_per_trial, slots.gpus_per_trial > 0)
            concurrency = min(slots.max_concurrent_trials, sweep.search.num_samples)
            shown = console or Console(stderr=True)
            progress = Progress(shown, sweep.search.num_samples, concurrency)
            callback = SweepCallback(place, mirror, scheduler, progress, sweep.keep_pruned_top)
            trainable = tune.with_resources(
                make_trainable(place, train),
                {"CPU": sweep.resources.cpus_per_trial, "GPU": slots.gpus_per_trial},
            )
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=OptunaSearcher(sweep),
                    scheduler=scheduler,
                    num_samples=sweep.search.num_samples,
                    max_concurrent_trials=concurrency,
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
            )
            progress.open()
            try:
                tuner.fit()
            finally:
                progress.close()
        finished = True
    finally:
        unsynced = _settle(mirror, folder, "FINISHED" if finished else "KILLED")
    rungs = tuple(scheduler.halving.rungs) if scheduler.halving else ()
    return SweepResult(name, folder, _snapshots(folder), rungs, unsynced)


@dataclass(frozen=True)
class Slots:
    """What a trial gets, and how many run at a time."""

    gpus_per_trial: float
    max_concurrent_trials: int


def find_slots(resources: Resources, total: dict[str, float]) -> Slots:
    """Fit trials into a cluster with `total` resources, by Ray's names.

    Raises:
        ConfigError: not one trial fits, and no number of trials was asked for.
    """
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    each = resources.gpus_per_trial
    if each is None:
        each = 1.0 if gpus >= 1 else 0.0
    if resources.max_concurrent_trials is not None:
        return Slots(each, resources.max_concurrent_trials)
    fits = int(cpus // resources.cpus_per_trial)
    if each > 0:
        fits = min(fits, int(gpus // each) if each >= 1 else int(gpus) * int(1 / each))
    if fits < 1:
        raise ConfigError(
            f"resources: a trial needs {resources.cpus_per_trial} CPUs and {each:g} GPUs; the "
            f"cluster has {cpus:g} and {gpus:g}",
            fix="lower resources.cpus_per_trial or resources.gpus_per_trial, or set "
            "resources.max_concurrent_trials for a cluster that grows",
        )
    return Slots(each, fits)


def _read_data(sweep: SweepConfig) -> None:
    """Data errors end a sweep before it starts, once for each way that its trials read data."""
    starts: list[TrialSettings] = [sweep.base()]
    starts += [sweep.first(number)[0] for number in range(len(sweep.first_trials))]
    seen: list[tuple[object, ...]] = []
    for start in starts:
        config: Config = from_flat(start.settings)
        what = (config.data, config.tasks, config.seed)
        if what not in seen:
            seen.append(what)
            read_dataset(config)


def _claim(sweep: SweepConfig, folder: Path, tracking: Tracking) -> None:
    """Make the sweep's folder; two sweeps never share one, nor a name in MLflow."""
    tracking.check()
    fix = "choose another name with --name"
    if folder.name in sweep_names(tracking):
        raise ConfigError(f"sweep {folder.name!r} is already tracked in MLflow", fix=fix)
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise ConfigError(f"sweep {folder.name!r} already exists: {folder}", fix=fix) from None
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error}", fix="set --storage") from None
    write_atomic(folder / SWEEP_FILE, json.dumps(sweep.to_file(), indent=1) + "\n")


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


def _settle(mirror: Mirror, folder: Path, status: str) -> tuple[str, ...]:
    """The last word on every trial: none is left RUNNING. Returns what MLflow has missed."""
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
    return tuple(sorted(mirror.dirty))


def _snapshots(folder: Path) -> tuple[TrialSnapshot, ...]:
    return tuple(TrialFolder(path).snapshot() for path in _trial_folders(folder))


def _trial_folders(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / TRIALS).glob(f"*/{CONFIG_ARTIFACT}"))


@contextmanager
def _environment() -> Iterator[None]:
    """Settings of Ray's that are environment variables, for as long as the sweep runs."""
    before = {key: os.environ.get(key) for key in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the sweep in order, as Ctrl-C does, with the exit code of a stop."""
    is_terminated = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal is_terminated
        is_terminated = True
        raise KeyboardInterrupt  # Ray changes the code of a SystemExit

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        if is_terminated:
            raise SystemExit(STOPPED_EXIT_CODE) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _cluster() -> Iterator[dict[str, float]]:
    """The resources of the cluster at RAY_ADDRESS, of the one in use, or of this machine."""
    ours = not ray.is_initialized()
    if ours and os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level="error")
    elif ours:
        ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield dict(ray.cluster_resources())
    finally:
        if ours:
            ray.shutdown()


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial"])
