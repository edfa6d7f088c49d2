"""The data that a rule is fitted to: candidates' predictions on a fold's rows, and the labels.

Candidates are sorted and deduplicated, so the order in which they are passed and repetitions do not
matter.

Legend: M candidates, N rows, C classes. Predictions [M, N] or [M, N, C].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.selection.combine import Averaged, average, linear
from ensemble.selection.loss_scorers import explained, make_loss
from ensemble.selection.scorers import is_constant
from ensemble.statistics.arrays import Floats
from ensemble.statistics.effort import SHIPPED, Effort
from trainable.config.tasks import Output, Task
from trainable.evaluation.metrics import task_metric, task_metrics

LIBRARY = 40
"""Number of a task's best candidates that rules are fitted to: further ones are mostly other epochs
of the same runs."""
MIN_SHARE = 0.005
"""Weights below this share of the largest are set to 0: each costs an encoder and has almost no
effect."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear model of candidates' log-odds or scores (`ensemble.selection.combine.linear`)."""

    weights: Floats  # [M] any sign and sum
    intercept: Floats  # [C] for classes, else [1]


Combination = Floats | Linear
"""What a rule returns: the weights [M] of an average, or a linear model."""


@dataclass(frozen=True, eq=False)
class FitData:
    """Predictions and labels. Candidates are distinct, not constant, and sorted."""

    task: Task
    predictions: Floats
    labels: Floats  # [N]
    in_simple: NDArray[np.bool_]  # [M] candidates that `simple` averages, e.g. one of each run
    averaged: Averaged = Averaged.PAPER  # what the predictions are
    effort: Effort = SHIPPED  # numbers of rounds, bags and folds

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "FitData":
        """Return the data of some rows, by a mask [N] or by indices [k], which may repeat."""
        predictions, labels = self.predictions[:, rows], self.labels[rows]
        return replace(self, predictions=predictions, labels=labels)

    def among(self, candidates: NDArray[np.int64]) -> "FitData":
        """Return the data of some of the candidates, by their indices [k]; where `simple` averages
        none of them, it averages them all."""
        return replace(
            self,
            predictions=self.predictions[candidates],
            in_simple=_any_or_all(self.in_simple[candidates]),
        )

    def score(self, combination: Combination) -> float:
        """Return the task's metric of the combined predictions."""
        return task_metric(self.task, self._combined(combination), self.labels)[0]

    def explained(self, combination: Combination) -> float:
        """Return how much of the labels the combined predictions explain, at most 1
        (`ensemble.selection.loss_scorers.explained`): less noisy than the metric."""
        outputs = self._combined(combination)
        averaged = Averaged.LOGITS if isinstance(combination, Linear) else self.averaged
        loss = make_loss(self.task, outputs[None], self.labels, averaged)
        return float(explained(self.task, loss, loss.values, self.labels)[0])

    @cached_property
    def singles(self) -> Floats:
        """Return [M] the metric of each candidate."""
        return task_metrics(self.task, self.predictions, self.labels)

    def ranked(self) -> NDArray[np.int64]:
        """Return [M] indices of the candidates, the best first."""
        return np.argsort(-self.singles, kind="stable")

    def _combined(self, combination: Combination) -> Floats:
        weights, intercept = weights_and_intercept(combination)
        return weighted(self.task, self.predictions, weights, intercept, self.averaged)


def deduplicated(
    task: Task,
    predictions: Floats,
    labels: Floats,
    order: Sequence[Any],
    in_simple: Sequence[bool] | None = None,
    averaged: Averaged = Averaged.PAPER,
    effort: Effort = SHIPPED,
) -> tuple[NDArray[np.int64], FitData]:
    """Return the candidates that are distinct and not constant, sorted by `order`: their indices
    [k], and the data that rules are fitted to.

    Args:
        predictions: [M, N] or [M, N, C].
        labels: [N].
        order: [M] distinct sortable values.
        in_simple: [M] which candidates `simple` averages; default: all.
    """
    plain = np.ones(len(predictions), np.bool_) if in_simple is None else np.array(in_simple)
    constant = is_constant(predictions)
    seen: dict[bytes, int] = {}
    for m in sorted(range(len(predictions)), key=lambda m: order[m]):
        if not constant[m] or constant.all():
            seen.setdefault(predictions[m].tobytes(), m)
    kept = np.array(list(seen.values()), np.int64)
    plain = _any_or_all(plain[kept])
    return kept, FitData(task, predictions[kept], labels, plain, averaged, effort)


def library(task: Task, scores: Floats, labels: Floats) -> NDArray[np.int64]:
    """Return the indices [k] of the candidates that rules are fitted to: the best forty, without
    those below `min_score`, which would make no difference.

    Args:
        scores: [M] the metric of each candidate.
        labels: [N] of the rows that the metric was computed on.
    """
    best = np.argsort(-scores, kind="stable")[:LIBRARY]
    return np.sort(best[scores[best] >= min_score(task, float(scores.max()), labels)])


def min_score(task: Task, best: float, labels: Floats) -> float:
    """Return the metric half-way between a constant prediction and the best candidate.

    Args:
        best: the best candidate's metric.
        labels: [N].
    """
    constant = 0.0
    if task.kind.output is not Output.SCORE:
        constant = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    if task.kind.output is Output.LABELS and task.metric != "accuracy":  # every label for every row
        constant = task_metric(task, np.ones((len(labels), task.num_classes)), labels)[0]
    constant = min(constant, best)
    return constant + (best - constant) / 2


def weights_and_intercept(combination: Combination) -> tuple[Floats, Floats | None]:
    """Return the weights [M], and the intercept of a linear model, [C] or [1]; None for an
    average."""
    if isinstance(combination, Linear):
        return combination.weights, combination.intercept
    return combination, None


def scatter(
    combination: Combination, candidates: NDArray[np.int64], num_candidates: int
) -> Combination:
    """Return a combination of some candidates, by their indices [k], as one of all M, with weight
    0 for the others."""
    weights, (few, intercept) = np.zeros(num_candidates), weights_and_intercept(combination)
    weights[candidates] = few
    return weights if intercept is None else Linear(weights, intercept)


def weighted(
    task: Task,
    predictions: Sequence[Floats] | Floats,
    weights: Floats,
    intercept: Floats | None,
    averaged: Averaged,
) -> Floats:
    """Return the combined predictions [N] or [N, C], in the form that metrics take.

    Args:
        predictions: [M, N] or [M, N, C].
        weights: [M].
        intercept: [C] or [1] of a linear model; None: an average.
    """
    if intercept is None:
        return average(task, predictions, weights.tolist())
    return linear(task, predictions, weights.tolist(), intercept.tolist(), averaged)


def normalise_weights(raw: Floats) -> Floats:
    """Return weights [M] with sum 1, from weights [M] of at least 0: the smallest are set to 0, and
    all are rounded, so that they are equal on every machine."""
    kept = np.where(raw >= MIN_SHARE * raw.max(), raw, 0.0)
    rounded = np.round(kept / math.fsum(kept), 9)
    return np.asarray(rounded / math.fsum(rounded), np.float64)


def _any_or_all(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask if mask.any() else np.ones_like(mask)
