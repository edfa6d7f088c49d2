"""What a sweep has learnt about its space: which settings matter, and where the good ones lie.

Optuna's own evaluators and pictures, over a study that is rebuilt from the sweep's folder.
"""

import io
import math
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.trial import TrialState

from mlflow_setup.errors import NothingUsableError
from mlflow_setup.filesystem.atomic import write_atomic
from search.algorithms.audit import AuditResult, audit_result
from search.algorithms.optuna_searcher import OptunaSearcher
from search.algorithms.warm_start import read_warm_start
from search.storage.history import read_history
from search.storage.sweep_folder import SweepFolder

matplotlib.use("Agg")  # before pyplot, which Optuna's pictures need
from matplotlib import pyplot as plt
from optuna.visualization import matplotlib as pictures

MIN_TRIALS = 4
"""Finished trials from which on an importance means something at all."""
EVALUATORS: dict[str, Callable[[], Any]] = {
    "PED-ANOVA": PedAnovaImportanceEvaluator,
    "fANOVA": lambda: FanovaImportanceEvaluator(seed=0),
}
"""Which settings the best trials agree on; which settings explain the variance of all."""


@dataclass(frozen=True)
class Insight:
    """What one sweep has learnt."""

    num_finished: int
    importances: dict[str, dict[str, float | None]]  # setting -> evaluator -> share, in [0, 1]
    study: optuna.Study
    audit: AuditResult | None


def read_insight(folder: SweepFolder) -> Insight:
    """Rebuild the study and weigh its settings, the most important first.

    A setting that not every finished trial has, or that never varied, has no importance.

    Raises:
        NothingUsableError: nothing is searched, or too few trials have finished.
    """
    sweep = folder.read()
    if not sweep.space:
        raise NothingUsableError(f"sweep {folder.name} searches no settings: its space is empty")
    history = [past for past in read_history(folder.trial_folders()) if past.is_over]
    study = OptunaSearcher(sweep, history, read_warm_start(folder.path)).study
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    if len(finished) < MIN_TRIALS:
        raise NothingUsableError(
            f"sweep {folder.name}: {len(finished)} finished trials; {MIN_TRIALS} are needed to "
            "tell which settings matter",
            fix=f"{folder.command('extend')} --num-samples 8",
        )
    found = {name: _importances(study, make()) for name, make in EVALUATORS.items()}
    keys = sorted(sweep.space, key=lambda key: -sum(one.get(key) or 0 for one in found.values()))
    weighed = {key: {name: one.get(key) for name, one in found.items()} for key in keys}
    return Insight(len(finished), weighed, study, audit_result(history))


def write_pictures(insight: Insight, folder: Path) -> list[Path]:
    """`history.png`, `slice.png`, `parallel.png`, `importances.png`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Callable[..., Any]] = {
        "history.png": pictures.plot_optimization_history,
        "slice.png": pictures.plot_slice,
        "parallel.png": pictures.plot_parallel_coordinate,
        "importances.png": pictures.plot_param_importances,
    }
    paths = []
    for name, draw in drawn.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's pictures are experimental by name
            try:
                axes = draw(insight.study, target=_target(insight.study))
            except (ValueError, RuntimeError):
                continue  # a study whose values are all the same has no such picture
            figure = axes.figure if hasattr(axes, "figure") else axes.flat[0].figure
            figure.set_size_inches(max(8, figure.get_size_inches()[0]), 5)
            image = io.BytesIO()
            figure.savefig(image, format="png", dpi=100, bbox_inches="tight")
            plt.close("all")
        write_atomic(folder / name, image.getvalue())
        paths.append(folder / name)
    return paths


def _target(study: optuna.Study) -> Callable[[Any], float] | None:
    """What a trial is worth where it has several values: their mean, which is overall."""
    if len(study.directions) == 1:
        return None
    return lambda trial: statistics.fmean(trial.values)


def _importances(study: optuna.Study, evaluator: Any) -> dict[str, float | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(
                study, evaluator=evaluator, target=_target(study)
            )
        except (ValueError, RuntimeError):  # nothing varied
            return {}
    return {key: value for key, value in found.items() if math.isfinite(value)}
