"""The importance of the settings that a sweep searched, with its uncertainty.

Computed by Optuna's evaluators on a study that is rebuilt from the sweep's folder.
"""

import math
import random
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from mlflow_setup.errors import NothingUsableError
from search.algorithms.audit import AuditResult, audit_result
from search.algorithms.study import (
    create_study,
    frozen_past_trial,
    frozen_warm_trial,
    objectives,
)
from search.algorithms.warm_start import read_warm_start
from search.config.baselines import BASELINES
from search.storage.history import read_history
from search.storage.sweep_folder import SweepFolder

MIN_TRIALS = 4
"""Fewest finished trials for which importances are computed."""
EVALUATORS: dict[str, Callable[[], Any]] = {
    "PED-ANOVA": PedAnovaImportanceEvaluator,
    "fANOVA": lambda: FanovaImportanceEvaluator(seed=0),
}
"""PED-ANOVA: which settings the best trials have in common; fANOVA: which settings explain the
variance of the scores of all trials."""
NUM_DRAWS = 6
"""Subsamples of three quarters of the finished trials, drawn without replacement, over which the
range of an importance is taken."""


@dataclass(frozen=True)
class Insight:
    """The importances of a sweep's settings, and the result of its audit."""

    num_finished: int
    importances: dict[str, dict[str, float | None]]  # setting -> evaluator -> share, in [0, 1]
    ranges: dict[str, dict[str, tuple[float, float]]]  # evaluator -> setting -> (min, max)
    num_draws: int
    audit: AuditResult | None


def read_insight(folder: SweepFolder) -> Insight:
    """Rebuild the study and compute the importances, the most important setting first.

    A setting that some finished trial does not have, or that never varied, has no importance.

    Raises:
        NothingUsableError: nothing is searched, or too few trials have finished.
    """
    sweep = folder.read()
    if not sweep.space:
        raise NothingUsableError(f"sweep {folder.name} searches no settings: its space is empty")
    history = [past for past in read_history(folder.trial_folders()) if past.is_over]
    trials = [frozen_warm_trial(sweep, other) for other in read_warm_start(folder.path)]
    searched = [past for past in history if past.record.recipe not in BASELINES]
    trials += [frozen_past_trial(sweep, past) for past in searched]
    num_objectives = len(objectives(sweep))

    def study_of(chosen: Sequence[FrozenTrial]) -> optuna.Study:
        study = create_study(sweep, 0, num_objectives)
        study.add_trials(chosen)
        return study

    finished = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if len(finished) < MIN_TRIALS:
        raise NothingUsableError(
            f"sweep {folder.name}: {len(finished)} finished trials; {MIN_TRIALS} are needed to "
            "compute importances",
            fix=f"{folder.command('extend')} --num-samples 8",
        )
    study = study_of(trials)
    importances = {name: _importances(study, make()) for name, make in EVALUATORS.items()}
    draw = random.Random(0)
    parts = [draw.sample(finished, _part(len(finished))) for _ in range(NUM_DRAWS)]
    drawn = [
        {name: _importances(study_of(part), make()) for name, make in EVALUATORS.items()}
        for part in parts
    ]
    ranges = {name: _ranges([one[name] for one in drawn]) for name in EVALUATORS}
    keys = sorted(
        sweep.space, key=lambda key: -sum(one.get(key) or 0 for one in importances.values())
    )
    by_setting = {key: {name: one.get(key) for name, one in importances.items()} for key in keys}
    return Insight(len(finished), by_setting, ranges, NUM_DRAWS, audit_result(history))


def _part(count: int) -> int:
    return max(3, round(0.75 * count))


def _ranges(drawn: Sequence[dict[str, float | None]]) -> dict[str, tuple[float, float]]:
    """Return setting -> smallest and largest share over the draws that have it."""
    values: dict[str, list[float]] = {}
    for one in drawn:
        for key, share in one.items():
            values.setdefault(key, []).append(share or 0.0)
    return {key: (min(own), max(own)) for key, own in values.items()}


def _target(study: optuna.Study) -> Callable[[Any], float] | None:
    """Return the target for a study with several objectives: their mean, which is overall."""
    if len(study.directions) == 1:
        return None
    return lambda trial: statistics.fmean(trial.values)


def _importances(study: optuna.Study, evaluator: Any) -> dict[str, float | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importances = optuna.importance.get_param_importances(
                study, evaluator=evaluator, target=_target(study)
            )
        except (ValueError, RuntimeError):  # no setting, or no score, varied
            return {}
    return {key: value for key, value in importances.items() if math.isfinite(value)}
