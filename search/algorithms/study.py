"""Optuna's study of a sweep, and trials of earlier drivers and sweeps to add to it."""

import random
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mlflow_setup.schema import OVERALL, Outcome, metric_name
from search.algorithms.tpe import TPE
from search.algorithms.warm_start import WarmTrial
from search.config.space import distribution
from search.config.sweep_config import SweepConfig
from search.storage.history import PastTrial
from trainable.config.parse import from_flat

_STATES = {
    Outcome.FINISHED: TrialState.COMPLETE,
    Outcome.PRUNED: TrialState.PRUNED,
    Outcome.DIVERGED: TrialState.FAIL,
    Outcome.FAILED: TrialState.FAIL,
}


def objectives(sweep: SweepConfig) -> list[str]:
    """Return the dev metrics that the search maximises."""
    if sweep.search.objective == "overall":
        return [OVERALL]
    tasks = from_flat(sweep.base().settings).task_records()
    return [metric_name("dev", name, task.metric) for name, task in tasks.items() if task.metric]


def values_of(past: PastTrial, metrics: Sequence[str]) -> list[float]:
    """Return each metric's best value over the epochs; nothing if the trial lacks a metric."""
    values = [past.best(metric) for metric in metrics]
    return [value for value in values if value is not None] if None not in values else []


def create_study(sweep: SweepConfig, num_past: int, num_objectives: int) -> optuna.Study:
    """Create an empty study with the sweep's sampler; `num_past` of its trials began earlier."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = sweep.search.seed
    if num_past:  # with the same seed it would draw the same trials again
        seed = random.Random(f"{seed} {num_past}").randrange(2**31)
    # Univariate: drawn jointly, trials stay close to an early winner (docs/experiments.md compares
    # the two).
    sampler = TPE(seed, sweep.search.num_startup_trials)
    return optuna.create_study(directions=["maximize"] * num_objectives, sampler=sampler)


def frozen_past_trial(sweep: SweepConfig, past: PastTrial) -> FrozenTrial:
    """Return the study's trial for a trial of this sweep that has ended."""
    assert past.outcome is not None
    return _frozen(
        sweep,
        searched_params(sweep, past),
        _STATES[past.outcome.outcome],
        values_of(past, objectives(sweep)),
        past.best_values,
    )


def searched_params(sweep: SweepConfig, past: PastTrial) -> dict[str, Any]:
    """Return a trial's searched settings, without those that are not in the sweep's space."""
    space, settings = sweep.space, past.record.config
    searched = [key for key in past.record.searched if key in space and key in settings]
    return {key: settings[key] for key in searched if space[key].contains(settings[key])}


def frozen_warm_trial(sweep: SweepConfig, warm: WarmTrial) -> FrozenTrial:
    """Return the study's trial for a trial of an older sweep."""
    state = TrialState.COMPLETE if warm.is_finished else TrialState.PRUNED
    return _frozen(sweep, warm.params, state, list(warm.best.values()), warm.values)


def _frozen(
    sweep: SweepConfig,
    params: dict[str, Any],
    state: TrialState,
    values: list[float],
    by_epoch: Sequence[float],
) -> FrozenTrial:
    """Create a trial that has ended.

    Args:
        values: of each objective; empty (damaged epochs, other tasks): it counts as failed.
        by_epoch: the best overall so far, after each epoch.
    """
    is_single = sweep.search.objective == "overall"
    if not values:
        state = TrialState.FAIL
    has_values = state is TrialState.COMPLETE or (state is TrialState.PRUNED and is_single)
    return optuna.trial.create_trial(
        state=state,
        values=values if has_values else None,
        params=params,
        distributions={key: distribution(sweep.space[key]) for key in params},
        intermediate_values=dict(enumerate(by_epoch, start=1)) if is_single else {},
    )
