"""Combines the members' outputs into one output, both in selection and in serving.

By default class probabilities, binary logits and similarity scores are averaged, as in the paper.

Legend: N rows, C classes, or the labels of a multi-label task. Outputs are a head's: logits [N, C],
one logit [N] of a binary task (paraphrase), or a score [N]. Predictions are what is averaged; a
multi-label task is treated as C binary tasks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainable.config.tasks import Kind, Output, Task

Floats = NDArray[np.floating[Any]]

GRID = 2**20
"""Grid steps per unit to which predictions are rounded. Their sums are then exact in float64 in any
order, so equal predictions tie on every machine."""
_FINE_GRID = 2**32
"""Grid steps per unit to which averages are rounded. Averages of k members are multiples of
1 / (GRID * k), which is coarser for any k below 4096, so only the rounding error of the division
is removed."""
_MAX_Z = 4.0
"""Standardised scores are clipped at this many standard deviations: for a nearly constant member,
larger ones are rounding errors."""

_BINARY_OUTPUTS = (Output.BINARY, Output.LABELS)

_MIN_RELATIVE_SPREAD = 1e-6
"""Scores whose standard deviation is below this share of the largest are a constant with float32
rounding errors."""


class Averaged(StrEnum):
    """What is averaged over the members."""

    PAPER = "paper"  # class probabilities, binary logits, scores
    PROBABILITIES = "probabilities"  # class and binary probabilities, scores
    LOGITS = "logits"  # class and binary logits, scores
    STANDARDISED = "standardised"  # as `paper`, but each member's scores are standardised first


@dataclass(frozen=True)
class Transform:
    """How a member's outputs become its prediction.

    Standardised scores are (score - mean) / spread, clipped to [-4, 4], times `to_spread`, plus
    `to_mean`. `to_spread` and `to_mean` are those of the labels, so an average is a score again.
    """

    averaged: Averaged = Averaged.PAPER
    mean: float = 0.0
    spread: float = 1.0
    to_mean: float = 0.0
    to_spread: float = 1.0

    def __post_init__(self) -> None:
        numbers = (self.mean, self.spread, self.to_mean, self.to_spread)
        if not all(map(math.isfinite, numbers)) or min(self.spread, self.to_spread) <= 0:
            raise ValueError(
                f"a transform's means must be finite and its spreads above 0: {numbers}"
            )

    @classmethod
    def fit(cls, task: Task, averaged: Averaged, outputs: Floats, labels: Floats) -> "Transform":
        """Return the transform fitted to outputs [N] or [N, C] and labels [N]."""
        if averaged is not Averaged.STANDARDISED or task.kind.output is not Output.SCORE:
            return cls(averaged)
        scores = np.asarray(outputs, np.float64)
        largest, spread = np.abs(scores).max(), scores.std()
        if spread <= _MIN_RELATIVE_SPREAD * largest:  # a constant: do not amplify its rounding
            spread = largest / _MIN_RELATIVE_SPREAD or 1.0
        numbers = (scores.mean(), spread, labels.mean(), labels.std() or 1.0)
        return cls(averaged, *(float(number) for number in numbers))

    def apply(self, task: Task, outputs: Floats) -> NDArray[np.float64]:
        """Return the prediction: probabilities or logits [N, C] of classes; logits or
        probabilities minus 0.5 [N] of a binary task ([N, C] of a multi-label one), both above 0
        for label 1; scores [N].

        Raises:
            ValueError: if the task is entailment, which has no outputs.
        """
        values = np.asarray(outputs, np.float64)
        if task.kind is Kind.ENTAILMENT:
            raise ValueError("an entailment task has no outputs to combine")
        if task.kind.output is Output.SCORE:
            if self.averaged is not Averaged.STANDARDISED:
                return values
            z = np.clip((values - self.mean) / self.spread, -_MAX_Z, _MAX_Z)
            return np.asarray(self.to_mean + self.to_spread * z)
        if task.kind.output is Output.CLASSES:
            if self.averaged is Averaged.LOGITS:
                values = values - values.mean(axis=1, keepdims=True)
            else:
                values = _softmax(values)
        elif self.averaged is Averaged.PROBABILITIES:
            values = 0.5 * np.tanh(0.5 * values)
        return np.rint(values * GRID) / GRID


PAPER = Transform()


def combine(
    task: Task,
    member_outputs: Sequence[Floats],
    weights: Sequence[float],
    transforms: Sequence[Transform] | None = None,
    intercept: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """Return the weighted combination of members' outputs: class probabilities [N, C], multi-label
    logits [N, C], binary logits [N] or scores [N].

    `trainable.evaluation.metrics` treats it like the output of one model: the class is the arg-max,
    and a logit above 0 is label 1.

    Args:
        transforms: one for each member, all with the same `averaged`; default: the paper's.
        intercept: [C] or [1] of a linear model of log-odds or scores (`linear`); None: an average.

    Raises:
        ValueError: there is no member, the numbers of members and weights differ, or the weights
            of an average are not at least 0 with a sum of 1, or those of a linear model not finite.
    """
    transforms = [PAPER] * len(weights) if transforms is None else transforms
    if not len(member_outputs) == len(weights) == len(transforms) > 0:
        raise ValueError(f"{len(member_outputs)} members but {len(weights)} weights")
    pairs = zip(transforms, member_outputs, strict=True)
    predictions = [transform.apply(task, outputs) for transform, outputs in pairs]
    averaged = transforms[0].averaged
    if intercept is not None:
        total = linear(task, predictions, weights, intercept, averaged)
        return _softmax(total) if task.kind.output is Output.CLASSES else total
    total = average(task, predictions, weights)
    if task.kind.output is Output.CLASSES and averaged is Averaged.LOGITS:
        return _softmax(total)
    if task.kind.output in _BINARY_OUTPUTS and averaged is Averaged.PROBABILITIES:
        return log_odds(task, total, averaged)
    return total


def to_predictions(task: Task, outputs: Floats) -> NDArray[np.float64]:
    """Return the predictions that the paper averages: softmax probabilities [N, C], logits [N] or
    scores [N].

    Raises:
        ValueError: if the task is entailment, which has no outputs.
    """
    return PAPER.apply(task, outputs)


def average(
    task: Task, predictions: Sequence[Floats] | Floats, weights: Sequence[float]
) -> NDArray[np.float64]:
    """Return the weighted average of members' predictions, all [N, C] or [N]; those of weight 0
    are not read.

    Raises:
        ValueError: as `combine`.
    """
    if not len(predictions) == len(weights) > 0:
        raise ValueError(f"{len(predictions)} members but {len(weights)} weights")
    if not (min(weights) >= 0 and abs(sum(weights) - 1) < 1e-9):
        raise ValueError(f"weights must be at least 0 and sum to 1, got {list(weights)}")
    return round_to_grid(task, _weighted_sum(predictions, weights))


def linear(
    task: Task,
    predictions: Sequence[Floats] | Floats,
    weights: Sequence[float],
    intercept: Sequence[float],
    averaged: Averaged,
) -> NDArray[np.float64]:
    """Return the weighted sum of members' log-odds or scores plus an intercept: logits [N, C] or
    [N], or scores [N].

    Weights may have any sign and sum. For class probabilities this is a logarithmic opinion pool.

    Raises:
        ValueError: as `combine`.
    """
    if not len(predictions) == len(weights) > 0:
        raise ValueError(f"{len(predictions)} members but {len(weights)} weights")
    if not np.isfinite([*weights, *intercept]).all():
        raise ValueError(f"weights and intercept must be finite, got {weights}, {intercept}")
    log_odds_of_members = [log_odds(task, prediction, averaged) for prediction in predictions]
    total = _weighted_sum(log_odds_of_members, weights) + np.asarray(intercept, np.float64)
    return round_to_grid(task, total)


def round_to_grid(task: Task, total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an average [N] or [N, C] without the rounding error of its sum, so that equal averages
    tie; scores are returned unchanged."""
    return total if task.kind.output is Output.SCORE else np.rint(total * _FINE_GRID) / _FINE_GRID


def log_odds(task: Task, prediction: Floats, averaged: Averaged) -> NDArray[np.float64]:
    """Return a prediction as logits [N, C] or [N], with probabilities below the grid's step raised
    to it; scores [N] are returned unchanged."""
    least = 1 / GRID
    if task.kind.output is Output.CLASSES and averaged is not Averaged.LOGITS:
        return np.asarray(np.log(np.maximum(prediction, least)))
    if task.kind.output in _BINARY_OUTPUTS and averaged is Averaged.PROBABILITIES:
        p = np.clip(0.5 + prediction, least, 1 - least)
        return np.asarray(np.log(p) - np.log1p(-p))
    return np.asarray(prediction, np.float64)


def _weighted_sum(
    predictions: Sequence[Floats] | Floats, weights: Sequence[float]
) -> NDArray[np.float64]:
    total = np.zeros_like(predictions[0], np.float64)
    for prediction, weight in zip(predictions, weights, strict=True):
        if weight != 0:
            total += weight * prediction
    return total


def _softmax(values: Floats) -> NDArray[np.float64]:
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float64)
