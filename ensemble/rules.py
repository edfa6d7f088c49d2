"""Rules that give every candidate of a task its weight, the simplest first.

All weights are at least 0 and sum to 1, and what is averaged are votes (`ensemble.combine`), so
that whatever a rule finds is served by the same code. Candidates have an order of their own here:
how they are given changes nothing, and one that is given twice counts once.

Legend: M candidates, N rows, C classes. Votes [M, N] or [M, N, C].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls

from ensemble.combine import average
from ensemble.scorers import is_constant
from ensemble.selection import best_single, greedy
from trainable.metrics import task_metric
from trainable.tasks import Kind, Task

Floats = NDArray[np.float64]

SKILL_POWER = 4
"""Between 0, equal weights, and infinity, the best candidate alone."""
TOP = 5
LIBRARY = 20
"""Greedy selection looks at so many of the best candidates: beyond them it fits noise."""
NUM_BAGS, BAG_ROUNDS = 20, 20
_RIDGE = 0.003
"""Of non-negative regression, on votes of unit mean square."""
_PRIOR = 1.0
"""Rows' worth of equal weights, as a share of all rows, in the mixture of class probabilities."""
_EM_ROUNDS = 100
_SMALLEST = 0.005
"""Weights below this share of the largest are dropped: they cost an encoder and change nothing."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows to choose by. Candidates are distinct, not constant, and sorted by their order."""

    task: Task
    votes: Floats
    labels: Floats  # [N]
    is_plain: NDArray[np.bool_]  # [M]: what equal weights are for, e.g. one epoch of each run

    def take(self, rows: NDArray[np.bool_]) -> "Sample":
        """Some of the rows."""
        return Sample(self.task, self.votes[:, rows], self.labels[rows], self.is_plain)

    def score(self, weights: Floats) -> float:
        """The task's metric of the weighted average."""
        return task_metric(
            self.task, average(self.task, self.votes, weights.tolist()), self.labels
        )[0]

    def singles(self) -> Floats:
        """[M] the metric of each candidate."""
        return np.array([task_metric(self.task, vote, self.labels)[0] for vote in self.votes])

    def ranked(self) -> NDArray[np.int64]:
        """[M] candidates, the best first."""
        return np.argsort(-self.singles(), kind="stable")


Rule = Callable[[Sample], Floats]


def simple(sample: Sample) -> Floats:
    """Equal weights."""
    return _normal(sample.is_plain.astype(np.float64))


def skill(sample: Sample) -> Floats:
    """Weights by skill: the log-odds of a better answer than chance's (Nitzan and Paroush, 1982),
    or r / (1 - r^2) for scores, the optimum for independent errors; both to a power."""
    found = np.where(sample.is_plain, sample.singles(), -1.0)
    if sample.task.kind is Kind.SIMILARITY:
        r = np.clip(found, 0, 0.999)
        raw = r / (1 - r * r)
    else:
        others = sample.task.num_outputs - 1 if sample.task.kind is Kind.CLASSIFICATION else 1
        p = np.clip(found, 1e-3, 0.999)
        raw = np.maximum(0.0, np.log(p * others / (1 - p)))
    return _normal(raw**SKILL_POWER) if raw.any() else simple(sample)


def single(sample: Sample) -> Floats:
    """The best candidate."""
    return _selected(best_single, sample)


def top(sample: Sample) -> Floats:
    """Equal weights for the five best."""
    weights = np.zeros(len(sample.votes))
    weights[sample.ranked()[:TOP]] = 1.0
    return _normal(weights)


def greedy_of_best(sample: Sample) -> Floats:
    """Greedy selection with replacement among the twenty best."""
    return _selected(greedy, sample, np.sort(sample.ranked()[:LIBRARY]))


def greedy_of_all(sample: Sample) -> Floats:
    """Greedy selection with replacement: the paper's subsets, made systematic."""
    return _selected(greedy, sample)


def blend(sample: Sample) -> Floats:
    """Half greedy, half equal weights for the ten best: shrunk selection."""
    weights = np.zeros(len(sample.votes))
    weights[sample.ranked()[: 2 * TOP]] = 1.0
    return 0.5 * greedy_of_best(sample) + 0.5 * _normal(weights)


def bagged(sample: Sample) -> Floats:
    """Greedy selection averaged over bags of half the candidates and resampled rows."""
    num_candidates, num_rows = len(sample.votes), len(sample.labels)
    random = np.random.default_rng([num_candidates, num_rows])
    total = np.zeros(num_candidates)
    for _ in range(NUM_BAGS):
        among = np.sort(random.permutation(num_candidates)[: max(1, num_candidates // 2)])
        rows = random.integers(num_rows, size=num_rows)
        bag = Sample(sample.task, sample.votes[:, rows], sample.labels[rows], sample.is_plain)
        total += _selected(partial(greedy, num_rounds=BAG_ROUNDS), bag, among)
    return _normal(total)


def regression(sample: Sample) -> Floats:
    """Non-negative regression: logistic on logits, least squares on scores, and the mixture of
    class probabilities with the highest likelihood (by expectation maximisation)."""
    if sample.task.kind is Kind.CLASSIFICATION:
        return _mixture(sample)
    x = sample.votes - (sample.votes.mean(axis=1, keepdims=True) if _is_scored(sample) else 0.0)
    x = x / max(float(np.sqrt(np.mean(x * x))), 1e-12)
    weights = (
        _least_squares(x, sample.labels) if _is_scored(sample) else _logistic(x, sample.labels)
    )
    return _normal(weights) if weights.any() else simple(sample)


RULES: dict[str, Rule] = {
    "simple": simple,
    "skill": skill,
    "single": single,
    "top": top,
    "greedy_of_best": greedy_of_best,
    "blend": blend,
    "bagged": bagged,
    "regression": regression,
    "greedy": greedy_of_all,
}
"""From the simplest, which fits the least to the rows that it sees, on."""

OFFERED = {name: rule for name, rule in RULES.items() if name not in ("simple", "single", "greedy")}
"""What the default chooses from: `skill` and `greedy_of_best` in place of their plain forms, and
`greedy_of_best`, which may end with one member, in place of `single`."""


def capped(rule: Rule, max_members: int) -> Rule:
    """The rule with so many members at most: fitted again to its heaviest ones."""

    def fit(sample: Sample) -> Floats:
        weights = rule(sample)
        if np.count_nonzero(weights) <= max_members:
            return weights
        heaviest = np.sort(np.argsort(-weights, kind="stable")[:max_members])
        few = Sample(
            sample.task, sample.votes[heaviest], sample.labels, np.ones(max_members, np.bool_)
        )
        weights = np.zeros(len(weights))
        weights[heaviest] = rule(few)
        return weights

    return fit


def apply(
    rule: Rule,
    task: Task,
    votes: Floats,
    labels: Floats,
    order: Sequence[Any],
    is_plain: Sequence[bool] | None = None,
) -> Floats:
    """[M] the weights of a rule for candidates as they come.

    Args:
        order: [M] distinct sortable values; they break ties.
        is_plain: [M] what equal weights are for; all unless given.
    """
    kept, sample = canonical(task, votes, labels, order, is_plain)
    weights = np.zeros(len(votes))
    weights[kept] = rule(sample)
    return weights


def canonical(
    task: Task,
    votes: Floats,
    labels: Floats,
    order: Sequence[Any],
    is_plain: Sequence[bool] | None = None,
) -> tuple[NDArray[np.int64], Sample]:
    """The candidates that differ and say something, sorted by `order`: which, and their sample."""
    plain = np.ones(len(votes), np.bool_) if is_plain is None else np.asarray(is_plain, np.bool_)
    constant = is_constant(votes)
    seen: dict[bytes, int] = {}
    for m in sorted(range(len(votes)), key=lambda m: order[m]):
        if not constant[m] or constant.all():
            seen.setdefault(votes[m].tobytes(), m)
    kept = np.array(list(seen.values()), np.int64)
    plain = plain[kept] if plain[kept].any() else np.ones(len(kept), np.bool_)
    return kept, Sample(task, votes[kept], labels, plain)


def _selected(
    choose: Callable[..., Any], sample: Sample, among: NDArray[np.int64] | None = None
) -> Floats:
    indices = np.arange(len(sample.votes)) if among is None else among
    found = choose(sample.task, sample.votes[indices], sample.labels, list(range(len(indices))))
    weights = np.zeros(len(sample.votes))
    weights[indices] = found.weights
    return weights


def _is_scored(sample: Sample) -> bool:
    return sample.task.kind is Kind.SIMILARITY


def _logistic(x: Floats, labels: Floats) -> Floats:
    """min over w >= 0 of mean log(1 + exp(-s w.x)) + ridge |w|^2 / 2, s = +-1."""
    signs, features = np.where(labels > 0, 1.0, -1.0), np.ascontiguousarray(x.T)

    def loss(w: Floats) -> tuple[float, Floats]:
        z = signs * (features @ w)
        slope = -signs / (1 + np.exp(np.minimum(z, 700))) / len(z)
        value = float(np.mean(np.logaddexp(0.0, -z)) + _RIDGE * (w @ w) / 2)
        return value, features.T @ slope + _RIDGE * w

    start = np.full(len(x), 1 / len(x))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(x))
    return np.asarray(found.x, np.float64)


def _least_squares(x: Floats, labels: Floats) -> Floats:
    """min over w >= 0 of mean (y - w.x)^2 + ridge |w|^2, y centred."""
    y = labels - labels.mean()
    scale = math.sqrt(_RIDGE * len(y))
    rows = np.vstack([x.T, scale * np.eye(len(x))])
    found, _ = nnls(rows, np.r_[y, np.zeros(len(x))], maxiter=100 * len(x))
    return np.asarray(found, np.float64)


def _mixture(sample: Sample) -> Floats:
    """Weights of the mixture of the candidates' probabilities, shrunk to equal ones."""
    num_candidates, num_rows = len(sample.votes), len(sample.labels)
    truth = sample.labels.astype(np.int64)
    p = np.maximum(sample.votes[:, np.arange(num_rows), truth], 1e-6)  # [M, N]
    weights = np.full(num_candidates, 1 / num_candidates)
    for _ in range(_EM_ROUNDS):
        blame = weights[:, None] * p
        blame /= blame.sum(axis=0)
        weights = blame.sum(axis=1) + _PRIOR * num_rows / num_candidates
        weights /= weights.sum()
    return _normal(weights)


def _normal(raw: Floats) -> Floats:
    """Sum 1, without the smallest; rounded, so that no machine's arithmetic shows."""
    kept = np.where(raw >= _SMALLEST * raw.max(), raw, 0.0)
    rounded = np.round(kept / math.fsum(kept), 9)
    return np.asarray(rounded / math.fsum(rounded), np.float64)
