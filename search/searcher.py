"""Optuna's TPE under Tune: a `Searcher` on the public `study.ask` and `study.tell`.

First the known configurations, then what the sampler draws. What it is told: a trial that ran to
its end with its best overall, a stopped one as pruned with its values by epoch, and a diverged or
failed one as failed. A value that is not finite is never told.
"""

import math
import re
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from search.space import suggest
from search.sweep_config import SweepConfig, TrialSettings
from trainable.trial import BEST_VALUE, DIVERGED, EPOCH, NUM_EPOCHS


class OptunaSearcher(Searcher):  # type: ignore[misc]  # ray is untyped
    """Suggests the trials of a sweep, named `0001`, `0002-b2` (a first trial) and so on."""

    def __init__(self, sweep: SweepConfig) -> None:
        super().__init__(metric=BEST_VALUE, mode="max")
        self.sweep = sweep
        self.study = _create_study(sweep)
        self.running: dict[str, optuna.Trial] = {}  # Tune's trial id -> Optuna's trial
        self.num_suggested = 0
        for number in range(len(sweep.first_trials)):
            self.study.enqueue_trial(sweep.first(number)[1])

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The next trial: its name, recipe, settings, their origin, and the keys searched."""
        number, self.num_suggested = self.num_suggested, self.num_suggested + 1
        given, name = self._starting_point(number)
        trial = self.study.ask()
        drawn = suggest(self.sweep.space, trial, given.with_defaults)
        self.running[trial_id] = trial
        is_first = number < len(self.sweep.first_trials)
        chosen_by = f"first trial {number + 1}" if is_first else "search"
        return {
            "trial": name,
            "recipe": given.recipe,
            "settings": {**given.settings, **drawn},
            "origin": {**given.origin, **dict.fromkeys(drawn, chosen_by)},
            "searched": list(drawn),
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch that the trial went on from."""
        if trial_id in self.running:
            _report(self.running[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The end of a trial. A trial that is not known here, or ended already, is ignored."""
        trial = self.running.pop(trial_id, None)
        if trial is None:
            return
        if error or not result or not _is_usable(result):
            self.study.tell(trial, state=TrialState.FAIL)
            return
        _report(trial, result)
        if result[EPOCH] < result[NUM_EPOCHS]:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, float(result[BEST_VALUE]))

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Metric, direction and space are the sweep's: nothing of Tune's is taken."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the sweep's folder remembers."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the sweep's folder remembers."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given and nobody reads it

    def _starting_point(self, number: int) -> tuple[TrialSettings, str]:
        if number < len(self.sweep.first_trials):
            given, _ = self.sweep.first(number)
            return given, first_trial_name(number, given.recipe)
        return self.sweep.base(), f"{number + 1:04d}"


def first_trial_name(number: int, recipe: str) -> str:
    """`0002-b2`: the name of first trial `number` (from 0), after its recipe or its file's name."""
    return f"{number + 1:04d}-{re.sub(r'[^A-Za-z0-9._-]', '-', Path(recipe).stem)}"


def _create_study(sweep: SweepConfig) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=sweep.search.seed,
            n_startup_trials=sweep.search.num_startup_trials,
            multivariate=True,
            group=True,  # conditions split the space; each part is drawn jointly
            constant_liar=True,  # trials run side by side: keep away from those under way
        )
    return optuna.create_study(direction="maximize", sampler=sampler)


def _report(trial: optuna.Trial, result: dict[str, Any]) -> None:
    """The best overall by epoch; a replayed epoch keeps its first value."""
    if _is_usable(result):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "already reported"
            trial.report(float(result[BEST_VALUE]), int(result[EPOCH]))


def _is_usable(result: dict[str, Any]) -> bool:
    value = result.get(BEST_VALUE)
    return (
        value is not None
        and math.isfinite(value)
        and not result.get(DIVERGED)
        and result.get(EPOCH, 0) >= 1
    )
