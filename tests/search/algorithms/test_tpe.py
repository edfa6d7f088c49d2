"""Our TPE suggests the same as Optuna's, and reads each past trial once."""

import random
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.trial import TrialState

from search.algorithms import tpe
from search.algorithms.tpe import TPE

NUM_STARTUP = 5


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Suggest a setting of every kind, and a conditional one."""
    settings: dict[str, Any] = {
        "lr": trial.suggest_float("lr", 1e-5, 1e-2, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5, step=0.1),
        "size": trial.suggest_int("size", 16, 256, log=True),
        "pooling": trial.suggest_categorical("pooling", ["cls", "mean", "pooler"]),
    }
    if settings["pooling"] == "mean":
        settings["weight"] = trial.suggest_float("weight", 0.0, 1.0)
    return settings


def suggestions(sampler: optuna.samplers.BaseSampler, num_objectives: int, num: int) -> list[Any]:
    """Suggestions of a search with four trials at a time, which end in every state, with ties."""
    study = optuna.create_study(directions=["maximize"] * num_objectives, sampler=sampler)
    draw = random.Random(0)
    found, running = [], []
    for _ in range(num):
        trial = study.ask()
        found.append(suggest(trial))
        running.append(trial)
        while len(running) > 3:
            ended = running.pop(draw.randrange(len(running)))
            values = [round(draw.random(), 1) for _ in range(num_objectives)]
            end = draw.random()
            if end < 0.4:
                study.tell(ended, values)
            elif end < 0.5:
                study.tell(ended, state=TrialState.FAIL)
            else:
                for epoch in range(draw.randrange(4)) if num_objectives == 1 else ():
                    ended.report(values[0] + epoch / 10, epoch)
                study.tell(
                    ended, state=TrialState.PRUNED if num_objectives == 1 else TrialState.FAIL
                )
    return found


def optuna_tpe(seed: int, num_startup_trials: int) -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=num_startup_trials, multivariate=False, constant_liar=True
    )


@pytest.mark.parametrize(("num_objectives", "num"), [(1, 120), (2, 50)])
def test_suggestions_equal_those_of_optuna(num_objectives: int, num: int) -> None:
    ours, theirs = (
        suggestions(sampler, num_objectives, num)
        for sampler in (TPE(3, NUM_STARTUP), optuna_tpe(3, NUM_STARTUP))
    )
    assert ours == theirs


@pytest.mark.parametrize("num_trials", [0, 1, 150])
@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (FloatDistribution(-1.0, 3.0), [-1.0, 3.0, 0.1, 0.1, 2.99]),
        (FloatDistribution(1e-5, 1e-2, log=True), [1e-5, 1e-2, 3e-4]),
        (FloatDistribution(0.0, 0.5, step=0.1), [0.0, 0.5, 0.1, 0.1]),
        (IntDistribution(16, 256, log=True), [16, 256, 40]),
        (CategoricalDistribution(["cls", "mean", "pooler"]), [0, 2, 1, 1]),
    ],
)
def test_densities_equal_those_of_optuna(
    distribution: optuna.distributions.BaseDistribution, values: list[float], num_trials: int
) -> None:
    observed = np.resize(np.array(values, np.float64), num_trials)
    if num_trials > 100 and isinstance(distribution, FloatDistribution) and not distribution.step:
        low, high = distribution.low, distribution.high  # wide and narrow kernels, up to both ends
        observed[5:] = low + (high - low) * np.random.default_rng(0).random(num_trials - 5) ** 3
    parameters = TPE(0, 5)._parzen_estimator_parameters
    given = {"x": observed}, {"x": distribution}, parameters
    samples = {"x": np.array([*values, *values])}
    ours, theirs = tpe._Mixture(*given).log_pdf(samples), _ParzenEstimator(*given).log_pdf(samples)
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12)


def test_past_trials_are_split_once_for_each_new_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    split_for, ranked_trials = [], []
    split, rank = TPE._split, tpe._rank

    def recorded_split(self: TPE, study: optuna.Study, new: optuna.trial.FrozenTrial) -> None:
        split_for.append(new.number)
        split(self, study, new)

    def recorded_rank(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> Any:
        ranked_trials.append(trial.number)
        return rank(study, trial)

    monkeypatch.setattr(TPE, "_split", recorded_split)
    monkeypatch.setattr(tpe, "_rank", recorded_rank)
    suggestions(TPE(3, NUM_STARTUP), 1, 40)
    assert len(split_for) == len(set(split_for)) > 20
    assert len(ranked_trials) == len(set(ranked_trials)) > 20


def test_a_setting_whose_range_changes_is_read_again() -> None:
    """Optuna's internal value of a parameter depends on its range, and probes have other ranges."""

    def values(sampler: optuna.samplers.BaseSampler) -> list[float]:
        study = optuna.create_study(direction="maximize", sampler=sampler)
        sizes = []
        for number in range(40):
            trial = study.ask()
            sizes.append(trial.suggest_int("size", 0, 10 if number % 2 else 20))
            study.tell(trial, -abs(sizes[-1] - 4))
        return sizes

    assert values(TPE(1, 2)) == values(optuna_tpe(1, 2))
