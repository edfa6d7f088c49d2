"""Rules: each gives every candidate of a task a weight, the simplest rule first.

Weights are at least 0 and sum to 1, except for the linear models (`paper_regression`, `stacking`).
All are applied to predictions by `ensemble.selection.combine`, in selection and in serving.

Legend: M candidates, N rows, C classes. Predictions [M, N] or [M, N, C].
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.selection.greedy import best_single, greedy
from ensemble.selection.regression import regression
from ensemble.selection.sample import (
    Combination,
    FitData,
    normalise_weights,
    scatter,
    weights_and_intercept,
)
from ensemble.selection.scorers import Objective
from ensemble.selection.stacking import paper_regression, stacking
from ensemble.statistics.arrays import Floats
from trainable.config.tasks import Output

Rule = Callable[[FitData], Combination]

LIBRARY = 20
"""Number of best candidates that `greedy_of_best` and `greedy_by_loss` select from; more would fit
noise."""
MAX_MEMBERS = 20
"""Maximum number of members of a task for the rules in `OFFERED`: more bring no measurable gain
(`benchmarks/ensemble_rules.py`)."""
SKILL_POWER = 4
"""Exponent of the weights of `skill`: 0 would give equal weights, infinity only the best one."""
TOP = 5
"""Members of the rule `top`."""


def simple(sample: FitData) -> Floats:
    """Return [M] equal weights."""
    return normalise_weights(sample.in_simple.astype(np.float64))


def skill(sample: FitData) -> Floats:
    """Return [M] weights by skill, the optimum for independent errors: the log-odds of a right
    answer relative to chance (Nitzan and Paroush, 1982), or r / (1 - r^2) for scores; both raised
    to `SKILL_POWER`."""
    skills = np.where(sample.in_simple, sample.singles, -1.0)
    if sample.task.kind.output is Output.SCORE:
        r = np.clip(skills, 0, 0.999)
        raw = r / (1 - r * r)
    else:
        others = sample.task.num_outputs - 1 if sample.task.kind.output is Output.CLASSES else 1
        p = np.clip(skills, 1e-3, 0.999)
        raw = np.maximum(0.0, np.log(p * others / (1 - p)))
    return normalise_weights(raw**SKILL_POWER) if raw.any() else simple(sample)


def single(sample: FitData) -> Floats:
    """Return [M] weight 1 for the best candidate."""
    return _selected(best_single, sample)


def top(sample: FitData) -> Floats:
    """Return [M] equal weights for the five best candidates."""
    weights = np.zeros(len(sample.predictions))
    weights[sample.ranked()[:TOP]] = 1.0
    return normalise_weights(weights)


def greedy_of_best(sample: FitData, max_members: int | None = None) -> Floats:
    """Return [M] weights by greedy selection with replacement among the twenty best."""
    among = np.sort(sample.ranked()[:LIBRARY])
    return _greedy(sample, among, max_members=max_members)


def greedy_by_loss(sample: FitData, max_members: int | None = None) -> Floats:
    """Return [M] weights by the same selection with log-loss or squared error as objective, which
    are less noisy than the metric."""
    among = np.sort(sample.ranked()[:LIBRARY])
    return _greedy(sample, among, objective=Objective.LOSS, max_members=max_members)


def greedy_sorted(sample: FitData, max_members: int | None = None) -> Floats:
    """Return [M] weights by greedy selection among all candidates, initialised with the five best
    (Caruana et al., 2004)."""
    return _greedy(sample, num_sorted=min(TOP, max_members or TOP), max_members=max_members)


def greedy_of_all(sample: FitData, max_members: int | None = None) -> Floats:
    """Return [M] weights by greedy selection with replacement among all candidates: a systematic
    search for the paper's subsets."""
    return _greedy(sample, max_members=max_members)


def blend(sample: FitData) -> Floats:
    """Return [M] the mean of the weights of `greedy_of_best` and equal weights for the ten best."""
    weights = np.zeros(len(sample.predictions))
    weights[sample.ranked()[: 2 * TOP]] = 1.0
    return 0.5 * greedy_of_best(sample) + 0.5 * normalise_weights(weights)


def bagged(sample: FitData) -> Floats:
    """Return [M] weights by greedy selection, averaged over bags of half the candidates and
    bootstrap samples of the rows."""
    num_candidates, num_rows = len(sample.predictions), len(sample.labels)
    random = np.random.default_rng([num_candidates, num_rows])
    total = np.zeros(num_candidates)
    for _ in range(sample.effort.num_bags):
        among = np.sort(random.permutation(num_candidates)[: max(1, num_candidates // 2)])
        rows = random.integers(num_rows, size=num_rows)
        bag = sample.among(among).take(rows)
        total[among] += _greedy(bag, num_rounds=sample.effort.bag_rounds)
    return normalise_weights(total)


RULES: dict[str, Rule] = {
    "simple": simple,
    "skill": skill,
    "single": single,
    "top": top,
    "greedy_of_best": greedy_of_best,
    "greedy_by_loss": greedy_by_loss,
    "blend": blend,
    "bagged": bagged,
    "regression": regression,
    "greedy": greedy_of_all,
    "greedy_sorted": greedy_sorted,
    "paper_regression": paper_regression,
    "stacking": stacking,
}
"""By name, the simplest and least prone to overfitting first. The last two are linear models, whose
weights may be negative; all others are averages."""

_TAKE_MAX_MEMBERS: dict[Rule, Callable[..., Floats]] = {
    rule: rule for rule in (greedy_of_best, greedy_by_loss, greedy_of_all, greedy_sorted)
}
"""Rules with an argument `max_members`."""


def capped(rule: Rule, max_members: int) -> Rule:
    """Return the rule limited to `max_members` members: by its own argument, or refitted to the
    members with the largest weights (of equal weights, the best candidates)."""
    if rule in _TAKE_MAX_MEMBERS:
        return partial(_TAKE_MAX_MEMBERS[rule], max_members=max_members)

    def fit(sample: FitData) -> Combination:
        is_mixture = rule is regression and sample.task.kind.output is Output.CLASSES
        if is_mixture and len(sample.predictions) > max_members:  # its weights are nearly equal
            best = np.sort(sample.ranked()[:max_members])
            return scatter(rule(sample.among(best)), best, len(sample.predictions))
        combination = rule(sample)
        size = np.abs(weights_and_intercept(combination)[0])
        if np.count_nonzero(size) <= max_members:
            return combination
        best = sample.ranked()
        heaviest = np.sort(best[np.argsort(-size[best], kind="stable")[:max_members]])
        return scatter(rule(sample.among(heaviest)), heaviest, len(size))

    return fit


def _greedy(sample: FitData, among: NDArray[np.int64] | None = None, **settings: Any) -> Floats:
    rounds = {"num_rounds": sample.effort.num_rounds}
    return _selected(partial(greedy, **(rounds | settings)), sample, among)


def _selected(
    choose: Callable[..., Any], sample: FitData, among: NDArray[np.int64] | None = None
) -> Floats:
    indices = np.arange(len(sample.predictions)) if among is None else among
    predictions, order = sample.predictions[indices], list(range(len(indices)))
    selection = choose(sample.task, predictions, sample.labels, order, averaged=sample.averaged)
    weights = np.zeros(len(sample.predictions))
    weights[indices] = selection.weights
    return weights


OFFERED: dict[str, Rule] = {
    name: capped(RULES[name], MAX_MEMBERS)
    for name in ("single", "top", "skill", "greedy_of_best", "greedy_by_loss", "regression")
}
"""The rules that are compared by default, the simplest first."""
