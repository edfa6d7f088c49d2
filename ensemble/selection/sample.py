"""What a rule sees: predictions of a task's candidates on the rows that choose, and the labels.

Candidates have an order of their own here: how they are given changes nothing, and one that is
given twice counts once.

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
"""Candidates of a task, the best, that rules look at: more of them are many epochs of few runs."""
_SMALLEST = 0.005
"""Weights below this share of the largest are dropped: they cost an encoder and change nothing."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear model of candidates (`ensemble.selection.combine.linear`)."""

    weights: Floats  # [M] of any sign and sum
    intercept: Floats  # [C] for classes, else [1]


Combination = Floats | Linear
"""What a rule makes of candidates: the weights [M] of an average, or a linear model."""


@dataclass(frozen=True, eq=False)
class FitData:
    """Rows to choose by. Candidates are distinct, not constant, and sorted by their order."""

    task: Task
    predictions: Floats
    labels: Floats  # [N]
    is_plain: NDArray[np.bool_]  # [M]: what equal weights are for, e.g. one epoch of each run
    averaged: Averaged = Averaged.PAPER  # what predictions are
    effort: Effort = SHIPPED  # what a rule that repeats itself keeps to

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "FitData":
        """Some of the rows, by a mask [N], or rows drawn from them, by k numbers [k]."""
        predictions, labels = self.predictions[:, rows], self.labels[rows]
        return replace(self, predictions=predictions, labels=labels)

    def looking_at(self, candidates: NDArray[np.int64]) -> "FitData":
        """k of the M candidates, by their numbers [k]; equal weights are for the same ones, or for
        all where none is."""
        plain = self.is_plain[candidates]
        few = self.among(candidates)
        return replace(few, is_plain=plain) if plain.any() else few

    def among(self, candidates: NDArray[np.int64]) -> "FitData":
        """k of the M candidates, by their numbers [k], equal weights being for all of them."""
        plain = np.ones(len(candidates), np.bool_)
        return replace(self, predictions=self.predictions[candidates], is_plain=plain)

    def score(self, combination: Combination) -> float:
        """The task's metric of the weighted average, or of the linear model."""
        weights, intercept = weights_and_intercept(combination)
        outputs = weighted(self.task, self.predictions, weights, intercept, self.averaged)
        return task_metric(self.task, outputs, self.labels)[0]

    def explained(self, combination: Combination) -> float:
        """The share of a uniform guess's loss that it does without
        (`ensemble.selection.loss_scorers.explained`): less noisy than the metric."""
        weights, intercept = weights_and_intercept(combination)
        outputs = weighted(self.task, self.predictions, weights, intercept, self.averaged)
        averaged = self.averaged if intercept is None else Averaged.LOGITS
        loss = make_loss(self.task, outputs[None], self.labels, averaged)
        return float(explained(self.task, loss, loss.values, self.labels)[0])

    @cached_property
    def singles(self) -> Floats:
        """[M] the metric of each candidate."""
        return task_metrics(self.task, self.predictions, self.labels)

    def ranked(self) -> NDArray[np.int64]:
        """[M] candidates, the best first."""
        return np.argsort(-self.singles, kind="stable")


def deduplicated(
    task: Task,
    predictions: Floats,
    labels: Floats,
    order: Sequence[Any],
    is_plain: Sequence[bool] | None = None,
    averaged: Averaged = Averaged.PAPER,
    effort: Effort = SHIPPED,
) -> tuple[NDArray[np.int64], FitData]:
    """The k candidates that differ and say something, sorted by `order`: their numbers [k], and
    what rules see of them.

    Args:
        predictions: [M, N] or [M, N, C]; labels: [N].
    """
    plain = (
        np.ones(len(predictions), np.bool_) if is_plain is None else np.asarray(is_plain, np.bool_)
    )
    constant = is_constant(predictions)
    seen: dict[bytes, int] = {}
    for m in sorted(range(len(predictions)), key=lambda m: order[m]):
        if not constant[m] or constant.all():
            seen.setdefault(predictions[m].tobytes(), m)
    kept = np.array(list(seen.values()), np.int64)
    plain = plain[kept] if plain[kept].any() else np.ones(len(kept), np.bool_)
    return kept, FitData(task, predictions[kept], labels, plain, averaged, effort)


def library(task: Task, scores: Floats, labels: Floats) -> NDArray[np.int64]:
    """The candidates that are looked at: the best forty, without those that have less than
    half of the best one's skill beyond a constant answer. What is worse changes nothing.

    Args:
        scores: [M] the metric of each; labels: [N] of the rows that it was computed on.
    """
    best = np.argsort(-scores, kind="stable")[:LIBRARY]
    return np.sort(best[scores[best] >= least_skill(task, float(scores.max()), labels)])


def least_skill(task: Task, best: float, labels: Floats) -> float:
    """The metric half-way from a constant answer's to the best candidate's; labels [N]."""
    constant = 0.0
    if task.kind.output is not Output.SCORE:
        constant = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    if task.kind.output is Output.LABELS and task.metric != "accuracy":  # all labels, for all
        constant = task_metric(task, np.ones((len(labels), task.num_classes)), labels)[0]
    constant = min(constant, best)
    return constant + (best - constant) / 2


def weights_and_intercept(combination: Combination) -> tuple[Floats, Floats | None]:
    """Weights [M], and a linear model's intercept."""
    return (
        (combination.weights, combination.intercept)
        if isinstance(combination, Linear)
        else (combination, None)
    )


def spread(
    combination: Combination, candidates: NDArray[np.int64], num_candidates: int
) -> Combination:
    """A combination of k of the candidates, by their numbers [k], as one of all M."""
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
    """[N] or [N, C] what members put out together, as metrics read it, by weights [M] and, of a
    linear model, its intercept [C] or [1]."""
    if intercept is None:
        return average(task, predictions, weights.tolist())
    return linear(task, predictions, weights.tolist(), intercept.tolist(), averaged)


def normalise_weights(raw: Floats) -> Floats:
    """[M] with sum 1, from weights [M] of at least 0 without the smallest; rounded, so that no
    machine's arithmetic shows."""
    kept = np.where(raw >= _SMALLEST * raw.max(), raw, 0.0)
    rounded = np.round(kept / math.fsum(kept), 9)
    return np.asarray(rounded / math.fsum(rounded), np.float64)
