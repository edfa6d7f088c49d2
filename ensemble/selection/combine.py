"""How members' outputs become one output; the same code for selection and for serving.

Averaged are, unless another value of the setting is chosen, class probabilities, paraphrase logits
and similarity scores, as the paper does.

Legend: N rows, C classes. Outputs are what a head puts out: logits [N, C] of classes or of a set's
labels, one logit [N] (paraphrase), a score [N]. Predictions are what is averaged; those of a set's
labels are a paraphrase's, label by label.
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
"""Steps in 1 of a prediction that is compared with another or with 0: sums are exact in float64, in
any order, so that equal predictions tie on every machine."""
_FINE_GRID = 2**32
"""Steps in 1 of an average. Averages of k members are equal or GRID * k steps apart: a coarser grid
than this for any k below 4096, so rounding undoes the error of k / total and nothing else."""
_FAR = 4.0
"""Standard deviations at which a standardised score is cut off: of a member that is nearly constant
the rest is rounding."""

_BY_LOGIT = (Output.BINARY, Output.LABELS)

_ROUNDING = 1e-6
"""Scores that spread by less than this share of the largest: float32's rounding of a constant."""


class Averaged(StrEnum):
    """What is averaged."""

    PAPER = "paper"  # probabilities of classes, logits of paraphrases, scores
    PROBABILITIES = "probabilities"  # those of paraphrases too
    LOGITS = "logits"  # those of classes too
    STANDARDISED = "standardised"  # as the paper, but scores on one scale whatever a member's own


@dataclass(frozen=True)
class Transform:
    """How a member's raw outputs become its prediction.

    Standardised scores are (score - mean) / spread, cut off at +-4, times `to_spread`, plus
    `to_mean`: the labels' spread and mean, so that an average is a score again.
    """

    averaged: Averaged = Averaged.PAPER
    mean: float = 0.0
    spread: float = 1.0
    to_mean: float = 0.0
    to_spread: float = 1.0

    def __post_init__(self) -> None:
        numbers = (self.mean, self.spread, self.to_mean, self.to_spread)
        if not all(map(math.isfinite, numbers)) or min(self.spread, self.to_spread) <= 0:
            raise ValueError(f"a transform's means must be finite, its spreads above 0: {numbers}")

    @classmethod
    def fit(cls, task: Task, averaged: Averaged, outputs: Floats, labels: Floats) -> "Transform":
        """Fit it to outputs [N] or [N, C] and labels [N] of the rows that choose."""
        if averaged is not Averaged.STANDARDISED or task.kind.output is not Output.SCORE:
            return cls(averaged)
        scores = np.asarray(outputs, np.float64)
        largest, spread = np.abs(scores).max(), scores.std()
        if spread <= _ROUNDING * largest:  # a constant: its rounding is not to become a signal
            spread = largest / _ROUNDING or 1.0
        numbers = (scores.mean(), spread, labels.mean(), labels.std() or 1.0)
        return cls(averaged, *(float(number) for number in numbers))

    def apply(self, task: Task, outputs: Floats) -> NDArray[np.float64]:
        """Probabilities [N, C] or logits [N, C] of classes; logits [N], or probabilities less a
        half [N], of paraphrases, both above 0 for a 1; scores [N].

        Raises:
            ValueError: if the task is entailment, which has no outputs.
        """
        values = np.asarray(outputs, np.float64)
        if task.kind is Kind.ENTAILMENT:
            raise ValueError("an entailment task has no outputs to combine")
        if task.kind.output is Output.SCORE:
            if self.averaged is not Averaged.STANDARDISED:
                return values
            z = np.clip((values - self.mean) / self.spread, -_FAR, _FAR)
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
    """One output from raw outputs, weighted: probabilities [N, C] of classes, logits [N, C] of a
    set's labels, a logit [N] or a score [N].

    `trainable.evaluation.metrics` reads it like any output: the arg-max is the class, a logit above
    0 is 1.

    Args:
        transforms: of each member, all averaging the same; the paper's unless given.
        intercept: [C] or [1] of a linear model of log-odds or scores (`linear`); None: an average.

    Raises:
        ValueError: no member, or not one finite weight of at least 0 for each, with a sum of 1, or
            for a linear model not one finite weight for each.
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
    if task.kind.output in _BY_LOGIT and averaged is Averaged.PROBABILITIES:
        return log_odds(task, total, averaged)
    return total


def to_predictions(task: Task, outputs: Floats) -> NDArray[np.float64]:
    """What the paper averages: softmax probabilities [N, C], logits [N] or scores [N].

    Raises:
        ValueError: if the task is entailment, which has no outputs.
    """
    return PAPER.apply(task, outputs)


def average(
    task: Task, predictions: Sequence[Floats] | Floats, weights: Sequence[float]
) -> NDArray[np.float64]:
    """[N, C] or [N] of members' predictions of that shape; those of weight 0 are not looked at.

    Raises:
        ValueError: as `combine`.
    """
    if not len(predictions) == len(weights) > 0:
        raise ValueError(f"{len(predictions)} members but {len(weights)} weights")
    if not (min(weights) >= 0 and abs(sum(weights) - 1) < 1e-9):
        raise ValueError(f"weights must be at least 0 and sum to 1, got {list(weights)}")
    return on_grid(task, _weighted(predictions, weights))


def linear(
    task: Task,
    predictions: Sequence[Floats] | Floats,
    weights: Sequence[float],
    intercept: Sequence[float],
    averaged: Averaged,
) -> NDArray[np.float64]:
    """Weighted log-odds or scores plus an intercept: logits [N, C] or [N], or a score [N].

    Weights may have any sign and sum. With class probabilities this is a logarithmic opinion pool.

    Raises:
        ValueError: as `combine`.
    """
    if not len(predictions) == len(weights) > 0:
        raise ValueError(f"{len(predictions)} members but {len(weights)} weights")
    if not np.isfinite([*weights, *intercept]).all():
        raise ValueError(f"weights and intercept must be finite, got {weights}, {intercept}")
    total = _weighted([log_odds(task, prediction, averaged) for prediction in predictions], weights)
    return on_grid(task, total + np.asarray(intercept, np.float64))


def on_grid(task: Task, total: NDArray[np.float64]) -> NDArray[np.float64]:
    """An average [N] or [N, C] without the rounding of its sum, so that equal ones tie; scores as
    they are."""
    return total if task.kind.output is Output.SCORE else np.rint(total * _FINE_GRID) / _FINE_GRID


def log_odds(task: Task, prediction: Floats, averaged: Averaged) -> NDArray[np.float64]:
    """A prediction as logits [N, C] or [N], at least those of the grid's smallest probability;
    scores [N] as they are."""
    least = 1 / GRID
    if task.kind.output is Output.CLASSES and averaged is not Averaged.LOGITS:
        return np.asarray(np.log(np.maximum(prediction, least)))
    if task.kind.output in _BY_LOGIT and averaged is Averaged.PROBABILITIES:
        p = np.clip(0.5 + prediction, least, 1 - least)
        return np.asarray(np.log(p) - np.log1p(-p))
    return np.asarray(prediction, np.float64)


def _weighted(
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
