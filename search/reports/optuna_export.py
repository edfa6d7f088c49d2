"""A sweep as a study of Optuna's own, in a database, which optuna-dashboard opens."""

import warnings
from collections.abc import Mapping
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.schema import raise_best, state_of
from mlflow_setup.text import first_line
from mlflow_setup.uris import redact
from search.algorithms.study import frozen_past_trial, objectives, searched_params
from search.config.baselines import BASELINES
from search.config.space import distribution
from search.config.sweep_config import SweepConfig
from search.storage.history import PastTrial, read_history
from search.storage.sweep_folder import SweepFolder


def export_study(folder: SweepFolder, url: str, run_ids: Mapping[str, str]) -> int:
    """Write the sweep's trials to a new study of its name; how many there are.

    Each has its settings, real times, the best overall so far after each epoch, and as user
    attributes its name, MLflow run, recipe, outcome and scores. Those under way are running, those
    that were stopped are waiting. The baselines, which have no settings, are attributes of the
    study.

    Args:
        url: SQLAlchemy's, as `optuna-dashboard` takes it: `sqlite:///x.db`.
        run_ids: trial -> the id of its MLflow run, of those that are tracked.

    Raises:
        ConfigError: no such database, or it has a study of that name.
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
            fix="--study takes a URL as SQLAlchemy has it: sqlite:///study.db",
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
        end = max(outcome.wall_time, record.start_time)  # of two machines' clocks one may be behind
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
    """Each dev metric's best of any epoch."""
    best: dict[str, float] = {}
    for epoch in past.epochs:
        raise_best(best, epoch)
    return best
