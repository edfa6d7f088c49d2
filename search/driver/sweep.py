"""Run, resume or extend a sweep.

Data and tracking are checked first, and that no other process drives the sweep.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from rich.console import Console

from mlflow_setup.errors import EnsweepError
from mlflow_setup.filesystem.lease import LEASE_FILE, Lease, read_lease
from mlflow_setup.filesystem.storage import storage_of
from mlflow_setup.tracking.store import Tracking
from search.algorithms.study import objectives
from search.algorithms.warm_start import read_warm_start, warm_start, write_warm_start
from search.config.baselines import baselines
from search.config.sweep_config import Budget, SweepConfig
from search.driver.result import SweepResult
from search.storage.history import history_to_resume, write_history
from search.storage.relocation import with_absolute_paths
from search.storage.sweep_folder import SweepFolder
from trainable.tune.cluster import starting_ahead
from trainable.tune.local_ray import check_ray_can_start
from trainable.tune.trainable import Train


def run_sweep(
    sweep: SweepConfig,
    name: str,
    storage: Path,
    tracking: Tracking,
    *,
    warm_from: Iterable[str] = (),
    console: Console | None = None,
    train: Train | None = None,
    resume_hint: str = "",
) -> SweepResult:
    """Run all trials of `sweep` in `<storage>/<name>`, until all have ended or it is stopped.

    Args:
        warm_from: sweeps (names, or paths to their folders) whose trials are added to the study.
        console: where progress is shown; stderr by default.
        train: trains one trial; given by tests only.
        resume_hint: shown if the user interrupts a clean stop.

    Raises:
        ConfigError: the name is taken, tracking cannot be reached, or no trial would ever fit.
        DataError: the data of some trial has errors; nothing has been started then.
        NothingUsableError: a sweep to start warm from has nothing to start from.
        EnsweepError: as above, and whatever is found before a trial begins; the name stays free.
    """
    from search.driver.run import Drive
    from search.planning.preflight import known_configs, read_inputs, refuse_taken

    storage_of(storage).probe()
    folder, shown = SweepFolder(storage, name), console or Console(stderr=True)
    sweep = sweep.map_settings(with_absolute_paths)
    inputs = read_inputs(sweep, known_configs(sweep))
    refuse_taken(folder, tracking)
    warm, said = warm_start(sweep, warm_from, folder.path.parent, objectives(sweep))
    for line in said:
        shown.print(line, markup=False, highlight=False)
    check_ray_can_start()
    folder.create(sweep)
    try:
        with Lease(folder.path) as lease:
            folder.write_inputs(inputs)
            if warm:
                write_warm_start(folder.path, warm)
            drive = Drive(folder, sweep, tracking, [], warm, lease, shown, inputs)
            return drive.run(train, resume_hint)
    except EnsweepError:
        is_anothers = read_lease(folder.path / LEASE_FILE) is not None
        if not folder.trial_folders() and not is_anothers:  # a refusal takes no name
            folder.remove()
        raise


def resume_sweep(
    name: str,
    storage: Path,
    tracking: Tracking,
    *,
    num_more: int = 0,
    retry_failed: bool = False,
    budget: Budget | None = None,
    console: Console | None = None,
    train: Train | None = None,
    resume_hint: str = "",
) -> SweepResult:
    """Resume a sweep from its folder alone, with `num_more` additional trials.

    A trial that was running resumes from its newest valid checkpoint, under its own name.

    Args:
        retry_failed: run failed trials again, each from its newest checkpoint.
        budget: replaces the sweep's own.

    Raises:
        NothingUsableError: there is no such sweep.
        ConfigError: another process drives it, or folder or database cannot be written.
        DataError: the data have errors, or data or an encoder have changed since the sweep began.
        EnsweepError: as above, and whatever is found before a trial begins; the sweep's folder and
            its runs in MLflow are unchanged then.
    """
    folder, shown = SweepFolder(storage, name), console or Console(stderr=True)
    sweep = folder.read()
    tracking.check_database()
    folder.storage.probe()
    with Lease(folder.path) as lease, _ray_ahead(folder, sweep, num_more, again=retry_failed):
        from search.driver.run import Drive  # loads MLflow, for seconds: Ray starts meanwhile
        from search.planning.preflight import (
            known_configs,
            read_inputs,
            refuse_other_data,
            refuse_other_inputs,
            unfinished_configs,
        )

        folder.begin()
        # a server that is away may come back; a broken file will not, nor a login that is refused
        tracking.check(may_be_away=tracking.database is None)
        sweep = folder.read(num_more)
        if budget is not None:
            sweep = sweep.model_copy(update={"budget": budget})
        history = history_to_resume(folder, retry_failed=retry_failed)
        warm = read_warm_start(folder.path)
        known, configs = folder.inputs(), [*known_configs(sweep), *unfinished_configs(history)]
        inputs_now = read_inputs(sweep, configs)
        refuse_other_inputs(known, inputs_now)
        refuse_other_data(history, inputs_now)
        inputs = known.with_more(inputs_now)

        def write_down() -> None:
            folder.write_inputs(inputs)
            write_history(folder, history)
            if num_more:
                folder.extend(num_more)

        drive = Drive(folder, sweep, tracking, history, warm, lease, shown, inputs)
        return drive.run(train, resume_hint, write_down)


def _ray_ahead(
    folder: SweepFolder, sweep: SweepConfig, num_more: int, *, again: bool
) -> AbstractContextManager[None]:
    """Start Ray in the background while the driver reads its files, if any trial is left to run."""
    outcomes = [trial.outcome() for trial in folder.trial_folders()]
    num_over = sum(ended is not None and ended.outcome.is_terminal for ended in outcomes)
    is_over = num_over >= sweep.search.num_samples + len(baselines(sweep))
    return nullcontext() if is_over and not num_more and not again else starting_ahead()
