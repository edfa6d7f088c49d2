"""Losses of the current members' average with each candidate added. They break ties between
candidates with the same metric, or are the objective of greedy selection.

Legend: M candidates, N rows, C classes, k of the candidates. Predictions [M, N] or [M, N, C].
"""

import math
from collections.abc import Sequence

import numpy as np

from ensemble.selection.combine import GRID, Averaged
from ensemble.statistics.arrays import Floats
from trainable.config.tasks import Output, Task
from trainable.data.labels import label_sets

_FACTORS = 32
"""Probabilities multiplied before one logarithm is taken; each is at least 1 / GRID, so their
product does not underflow."""
_BLOCK_SIZE = 2**16
"""Values processed together, so that they stay in the processor's cache."""


def make_loss(
    task: Task, predictions: Floats, labels: Floats, averaged: Averaged = Averaged.PAPER
) -> "RowLoss":
    """Return the task's loss: log-loss of probabilities or logits, squared error of scores.

    Args:
        predictions: [M, N] or [M, N, C].
        labels: [N].
        averaged: what the predictions are.
    """
    if task.kind.output is Output.SCORE:
        return SquaredErrors(predictions, labels)
    if task.kind.output is Output.LABELS:  # one binary task per label
        predictions, labels = by_label(predictions, labels)
    if task.kind.output in (Output.BINARY, Output.LABELS):
        if averaged is Averaged.PROBABILITIES:
            return BinaryLogLoss(predictions, labels)
        return LogisticLoss(predictions, labels)
    return (
        SoftmaxLoss(predictions, labels)
        if averaged is Averaged.LOGITS
        else LogLoss(predictions, labels)
    )


def by_label(predictions: Floats, labels: Floats) -> tuple[Floats, Floats]:
    """Return multi-label predictions [M, N, C] and labels [N] as those of one binary task with a
    row per label: [M, N * C] and [N * C]."""
    truth = label_sets(labels, predictions.shape[2]).astype(np.float64)
    return predictions.reshape(len(predictions), -1), truth.ravel()


class RowLoss:
    """A loss of averaged predictions, averaged over rows. A row has one value, or C of them."""

    def __init__(self, predictions: Floats, labels: Floats) -> None:
        self.labels, self.count = labels, 0
        self.rows, self.truth = np.arange(len(labels)), labels.astype(np.int64)  # class tasks
        self.signs = np.where(labels > 0, 1.0, -1.0)  # binary tasks
        self.values = self.values_of(predictions)
        self.total = np.zeros_like(self.values[0])

    def scores(self) -> Floats:
        """Return [M] the negated losses, as an `ensemble.selection.scorers.Scorer`."""
        return -self.losses(range(len(self.values)))

    def losses(self, candidates: Sequence[int]) -> Floats:
        """Return [k] the loss with each of these candidates added."""
        step = max(1, _BLOCK_SIZE // self.total.size)
        means = []
        for start in range(0, len(candidates), step):
            some = candidates[start : start + step]
            # A slice does not copy the values, as a list would.
            indices = slice(some.start, some.stop) if isinstance(some, range) else list(some)
            values = self.total + self.values[indices]
            values /= self.count + 1
            means.append(self.mean_losses(values))
        return np.concatenate(means)

    def add(self, candidate: int) -> None:
        self.total += self.values[candidate]
        self.count += 1

    def values_of(self, predictions: Floats) -> Floats:
        """Return the part of the predictions that the loss depends on: [M, N] or [M, N, C]."""
        return predictions

    def mean_losses(self, values: Floats) -> Floats:
        """Return [k] the losses of averages of `values`, [k, N] or [k, N, C]."""
        raise NotImplementedError


class LogLoss(RowLoss):
    """Log-loss of class probabilities; it depends only on that of the true class."""

    def values_of(self, predictions: Floats) -> Floats:
        return np.asarray(predictions[:, self.rows, self.truth])

    def mean_losses(self, values: Floats) -> Floats:
        return np.asarray(-_sums_of_logs(np.maximum(values, 1 / GRID)) / values.shape[1])


class BinaryLogLoss(RowLoss):
    """Log-loss of binary predictions: the probability of label 1, minus 0.5."""

    def mean_losses(self, values: Floats) -> Floats:
        truth = np.maximum(0.5 + values * self.signs, 1 / GRID)
        return np.asarray(-_sums_of_logs(truth) / values.shape[1])


class SoftmaxLoss(RowLoss):
    """Log-loss of class logits: log(sum of exp(z)) minus z of the true class."""

    def mean_losses(self, values: Floats) -> Floats:
        above = values - values.max(axis=2, keepdims=True)
        truth = above[:, self.rows, self.truth]
        return np.asarray((np.log(np.exp(above).sum(axis=2)) - truth).mean(axis=1))


class LogisticLoss(RowLoss):
    """Log-loss of binary logits: log(1 + exp(-z)), where z is negated for label 0."""

    def mean_losses(self, values: Floats) -> Floats:
        # log(1 + exp(-z)) = max(-z, 0) + log(1 + exp(-|z|))
        misses = np.maximum(-values * self.signs, 0.0).sum(axis=1)
        return np.asarray((_sums_of_logs(1.0 + np.exp(-np.abs(values))) + misses) / values.shape[1])


class SquaredErrors(RowLoss):
    """Squared error of scores."""

    def mean_losses(self, values: Floats) -> Floats:
        return np.asarray(((values - self.labels) ** 2).mean(axis=1))


def explained(task: Task, loss: RowLoss, averages: Floats, labels: Floats) -> Floats:
    """Return [k] how much averages explain of the labels: 1 - log-loss / log-loss of a uniform
    guess, or for scores r * |r| with Pearson's r. At most 1; 0 for an uninformative average.

    Args:
        averages: [k, N] or [k, N, C] averages of `loss.values`.
        labels: [N].
    """
    if task.kind.output is Output.SCORE:
        x, y = averages - averages.mean(axis=1, keepdims=True), labels - labels.mean()
        norm = np.einsum("kn,kn->k", x, x) * (y @ y)
        product = x @ y
        is_defined = norm > 1e-18 * (1 + np.abs(averages).max()) ** 4
        shares = np.zeros(len(x))
        np.divide(product * np.abs(product), norm, out=shares, where=is_defined)
        return shares
    num_classes = task.num_outputs if task.kind.output is Output.CLASSES else 2
    return np.asarray(1 - loss.mean_losses(averages) / math.log(num_classes))


def _sums_of_logs(values: Floats) -> Floats:
    """Return [k] the row sums of the logarithms of values [k, N] from 1 / GRID to 2; one logarithm
    is taken of the product of many values."""
    num_products = values.shape[1] // _FACTORS
    whole = num_products * _FACTORS
    products = values[:, :whole].reshape(len(values), _FACTORS, num_products).prod(axis=1)
    return np.asarray(np.log(products).sum(axis=1) + np.log(values[:, whole:]).sum(axis=1))
