"""Export of a sweep to an Optuna study in a database, for optuna-dashboard."""

import warnings
from collections.abc import Mapping
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.schema import state_of, update_best
from mlflow_setup.text import first_line
from mlflow_setup.uris import redact
from search.algorithms.study import frozen_past_trial, objectives, searched_params
from search.config.baselines import BASELINES
from search.config.space import distribution
from search.config.sweep_config import SweepConfig
from search.storage.history import PastTrial, read_history
from search.storage.sweep_folder import SweepFolder


def export_study(folder: SweepFolder, url: str, run_ids: Mapping[str, str]) -> int:
    """Write the sweep's trials to a new study with its name. Return the number of trials.

    Each has its settings, its times, the best overall so far after each epoch, and as user
    attributes its name, MLflow run, recipe, outcome and scores. Unfinished trials are RUNNING,
    stopped ones WAITING. The baselines, which have no searched settings, are attributes of the
    study.

    Args:
        url: a URL of SQLAlchemy, as for `optuna-dashboard`: `sqlite:///x.db`.
        run_ids: trial -> id of its MLflow run, of tracked trials.

    Raises:
        ConfigError: the database cannot be used, or has a study with that name.
        NothingUsableError: there is no such sweep, or it has no trial.
    """
    sweep = folder.read()
    history = read_history(folder.trial_folders())
    searched = [past for past in history if past.record.recipe not in BASELINES]
    if not searched:
        raise NothingUsableError(
            f"sweep {folder.name} has no trial yet", fix=folder.command("resume")
        )
    study = _new_study(folder.name, url, objectives(sweep))
    study.set_user_attr("description", sweep.description)
    for past in history:
        if past.record.recipe in BASELINES:
            study.set_user_attr(past.name, _scores(past))
    study.add_trials([_trial(sweep, past, run_ids.get(past.name)) for past in searched])
    return len(searched)


def _new_study(name: str, url: str, metrics: list[str]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=url, study_name=name, directions=["maximize"] * len(metrics)
        )
    except optuna.exceptions.DuplicatedStudyError:
        fix = f"optuna delete-study --storage {redact(url)} --study-name {name}, or another file"
        raise ConfigError(f"{redact(url)} has a study {name!r} already", fix=fix) from None
    except (SQLAlchemyError, ValueError, ImportError) as error:
        raise ConfigError(
            f"{redact(url)}: no database for a study: {first_line(error)}",
            fix="--study takes a URL of SQLAlchemy: sqlite:///study.db",
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(metrics)
    return study


def _trial(sweep: SweepConfig, past: PastTrial, run_id: str | None) -> FrozenTrial:
    trial = frozen_past_trial(sweep, past) if past.is_over else _unfinished(sweep, past)
    record, outcome = past.record, past.outcome
    trial.datetime_start = datetime.fromtimestamp(record.start_time)
    if past.is_over and outcome is not None:
        end = max(outcome.wall_time, record.start_time)  # they may be from different clocks
        trial.datetime_complete = datetime.fromtimestamp(end)
    attributes = {
        "trial": past.name,
        "run_id": run_id,
        "recipe": record.recipe,
        "seed": record.seed,
        "outcome": state_of(past.ended),
        "reason": None if outcome is None else outcome.reason,
        **_scores(past),
    }
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    return trial


def _unfinished(sweep: SweepConfig, past: PastTrial) -> FrozenTrial:
    params = searched_params(sweep, past)
    is_single = sweep.search.objective == "overall"
    return optuna.trial.create_trial(
        state=TrialState.RUNNING if past.outcome is None else TrialState.WAITING,
        params=params,
        distributions={key: distribution(sweep.space[key]) for key in params},
        intermediate_values=dict(enumerate(past.best_values, start=1)) if is_single else {},
    )


def _scores(past: PastTrial) -> dict[str, float]:
    """Return the best of each dev metric over the epochs."""
    best: dict[str, float] = {}
    for epoch in past.epochs:
        update_best(best, epoch)
    return best
