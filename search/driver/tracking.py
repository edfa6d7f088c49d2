"""A sweep's own run in MLflow, written by its driver, `ensweep sync` and `ensweep gc`."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow_setup.errors import EnsweepError, IntegrityError, NothingUsableError
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import OVERALL, Tag, metric_name
from mlflow_setup.tracking.store import Tracking
from mlflow_setup.tracking.ui_view import View
from search.config.baselines import baselines
from search.config.sweep_config import SweepConfig
from search.planning.preflight import known_configs
from search.storage.stop_request import drivers
from search.storage.sweep_folder import SWEEP_FILE, SweepFolder
from trainable.config.config import Config


def what_is_tracked(
    folder: SweepFolder, sweep: SweepConfig
) -> tuple[dict[str, str], dict[str, Any], dict[str, Path], View]:
    """Return tags, params and artifacts of the sweep's own run, and the view of its trials."""
    params = {
        f"{section}.{key}": value
        for section in ("search", "scheduler", "resources")
        for key, value in getattr(sweep, section).model_dump(mode="json").items()
    }
    known = baselines(sweep)
    return (
        {
            "recipe": sweep.recipe,
            "description": sweep.description,
            Tag.SEARCHED.value: ",".join(sweep.space),
            Tag.BASELINES.value: ",".join(dict.fromkeys(b.recipe for b in known.values())),
        },
        {"sweep": sweep.name, **params},
        {SWEEP_FILE: folder.path / SWEEP_FILE},
        view_of(known_configs(sweep)[0], tuple(sweep.space)),
    )


def sync(folder: SweepFolder, tracking: Tracking, *, whole: bool = True) -> list[str]:
    """Update MLflow from the sweep's folder. Return the problems, a line for each trial.

    Afterwards no run has the status RUNNING, unless a process drives the sweep.

    Args:
        whole: update the sweep's own run too, and create it if needed; False: only the trials'.
    """
    mirror, sweep = Mirror(tracking, folder.name), None
    before = mirror.parent_status()
    if whole:
        with suppress(IntegrityError, NothingUsableError):  # `resume` reports a damaged file
            sweep = folder.read()
    if before is None and sweep is not None:
        mirror.start(*what_is_tracked(folder, sweep))
    trials = folder.trial_folders()
    missed, outcomes = [], []
    for trial in trials:
        try:
            snapshot = trial.snapshot()
            mirror.project(snapshot)
        except (EnsweepError, OSError) as error:
            missed.append(f"{trial.path.name}: {error}")
        else:
            outcomes.append(snapshot.outcome)
    if whole and drivers(folder):
        return missed  # trials that the driver has just started may have a run and no folder yet
    has_ended = bool(outcomes) and all(record and record.outcome.is_terminal for record in outcomes)
    is_last = sweep is not None and len(trials) >= sweep.search.num_samples
    if before not in (None, "RUNNING") and not (has_ended and not missed and is_last):
        mirror.finish(before)  # keep the status: it may have been stopped between trials
    elif has_ended and not missed:
        mirror.finish("FINISHED")
    elif outcomes and (whole or (not missed and all(outcomes))):
        mirror.finish("KILLED")
    return missed


def view_of(config: Config, searched: tuple[str, ...] = ()) -> View:
    """Return the view with the best scores, overall and by task, and the searched settings."""
    tasks = config.task_records()
    metrics = [metric_name("dev", name, str(t.metric)) for name, t in tasks.items() if t.metric]
    best = tuple(f"best/{name}" for name in (OVERALL, *metrics))
    return View(best, searched)
