"""How well the members so far would do with each candidate added: exact, and fast.

Legend: M candidates, N rows, C classes, s members so far. Predictions [M, N] or [M, N, C].
"""

from enum import StrEnum
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ensemble.selection.combine import GRID, Averaged
from ensemble.selection.loss_scorers import make_loss
from ensemble.statistics.arrays import Floats
from trainable.config.tasks import Output, Task
from trainable.evaluation.metrics import task_metric

Integers = NDArray[np.integer[Any]]

TOLERANCE = 1e-12
"""Scores this close are equal: far below the weight of a row, above float64's rounding."""
_CONSTANT = 1e-6
"""Predictions that differ by less than this share of the largest are a constant, rounded."""
_FEW = 8
"""Rows on which nearly every candidate shows that it is not constant."""
_TILE = 256
"""Rows and candidates whose margins are made together: they stay in the processor's cache."""
_VALUES = 2**17
"""Margins looked at together, likewise."""
_MAX_ROWS = 255
"""Rows looked at together, at most: their count fits a byte."""


class Objective(StrEnum):
    """What an addition is to make better."""

    METRIC = "metric"  # the task's
    LOSS = "loss"  # log-loss of probabilities or logits, squared error of scores


class Scorer(Protocol):
    """The members so far with each candidate added; the higher the better."""

    def scores(self) -> Floats:
        """[M]."""

    def add(self, candidate: int) -> None:
        """Make a candidate one of the members so far."""


def make_scorer(
    task: Task,
    predictions: Floats,
    labels: Floats,
    objective: Objective,
    averaged: Averaged = Averaged.PAPER,
) -> Scorer:
    """A scorer by the task's metric, or by its negated loss; of predictions [M, N] or
    [M, N, C] and labels [N]."""
    if objective is Objective.LOSS:
        return make_loss(task, predictions, labels, averaged)
    if task.metric == "accuracy" and task.kind.output is not Output.LABELS:
        return Accuracy(task, predictions, labels)
    if task.metric == "pearson":
        return Pearson(predictions, labels)
    return AnyMetric(task, predictions, labels)


class AnyMetric:
    """A metric without a fast form: each candidate is tried."""

    def __init__(self, task: Task, predictions: Floats, labels: Floats) -> None:
        self.task, self.predictions, self.labels = task, predictions, labels
        self.total = np.zeros_like(predictions[0])

    def scores(self) -> Floats:
        # Metrics do not see the scale; sums of float32 scores are exact, so that ranks tie.
        tried = [
            task_metric(self.task, self.total + prediction, self.labels)[0]
            for prediction in self.predictions
        ]
        return np.array(tried)

    def add(self, candidate: int) -> None:
        self.total += self.predictions[candidate]


class Accuracy:
    """Margins of the true class over each class, in whole steps of the predictions' grid.

    A row is right when all of its margins are above 0; of the true class over itself it is made so.
    A margin is looked at for each candidate only while candidates can differ on it: sums grow and
    single predictions do not, so soon few are left. Candidates come last in memory, so that those
    few are read without the others.
    """

    def __init__(self, task: Task, predictions: Floats, labels: Floats) -> None:
        self.predictions, self.truth = predictions, labels.astype(np.int64)
        self.rows = np.arange(len(labels))
        if task.kind.output is Output.BINARY:  # label 1 wants a sum above 0, label 0 one up to 0
            self.total = (self.truth == 0).astype(np.int64)[None]  # [C, N], one plane of logits
        else:  # the arg-max is the lowest of equal classes, so a later class may be equal
            self.total = (np.arange(predictions.shape[2])[:, None] >= self.truth).astype(np.int64)
        margins = self._all_margins()  # [C, N, M]
        self.unsure = -margins.min(axis=2).astype(np.int64)  # a sum above it is so for all
        self.hopeless = -margins.max(axis=2).astype(np.int64)  # up to it, it is not for any
        self.planes = margins.reshape(-1, len(predictions))  # [C * N, M]

    def scores(self) -> Floats:
        is_wrong = (self.total <= self.hopeless).any(axis=0)  # [N] with every candidate
        is_open = (self.total <= self.unsure) & ~is_wrong  # [C, N]
        num_open = is_open.view(np.uint8).sum(axis=0, dtype=np.uint8)
        wanted = -self.total.ravel()
        sizes = np.bincount(num_open)[1:]  # rows by how many of their margins are open
        right = np.full(len(self.predictions), len(self.rows) - is_wrong.sum() - sizes.sum())
        height = min(_MAX_ROWS, max(1, _VALUES // len(self.predictions)))
        for count in (1 + np.flatnonzero(sizes)).tolist():
            rows = np.flatnonzero(num_open == count)
            if count == len(is_open):
                classes = np.broadcast_to(np.arange(count)[:, None], (count, len(rows)))
            else:
                classes = np.nonzero(is_open.T[rows])[1].reshape(len(rows), count).T
            for start in range(0, len(rows), height):
                some = slice(start, start + height)
                planes = classes[:, some] * len(self.rows) + rows[some]  # [count, rows]
                all_beaten = self._beats(planes[0], wanted)
                for plane in planes[1:]:
                    all_beaten &= self._beats(plane, wanted)
                right += all_beaten.view(np.uint8).sum(axis=0, dtype=np.uint8)
        return np.asarray(right / len(self.rows), np.float64)

    def add(self, candidate: int) -> None:
        # From the prediction: in `planes` a candidate's margins lie far apart.
        steps = np.rint(self.predictions[candidate] * GRID).astype(np.int64)
        self.total += self._margins(steps.T[..., None], slice(None))[..., 0]

    def _beats(self, plane: Integers, wanted: Integers) -> NDArray[np.bool_]:
        """[n, M] whether margins of n rows are above what is wanted of them."""
        range_ = np.iinfo(self.planes.dtype)
        limits = np.minimum(np.maximum(wanted[plane], range_.min), range_.max)
        is_slice = len(plane) > 1 and (np.diff(plane) == 1).all()  # then nothing is copied
        margins = self.planes[plane[0] : plane[-1] + 1] if is_slice else self.planes[plane]
        return np.asarray(margins > limits.astype(self.planes.dtype)[:, None])

    def _all_margins(self) -> Integers:
        """[C, N, M], made tile by tile: to turn all of it at once would miss the caches."""
        num_classes, num_rows = self.total.shape
        margins: Integers = np.empty((num_classes, num_rows, len(self.predictions)), np.int32)
        height = max(1, _TILE // num_classes)
        for row, m in product(range(0, num_rows, height), range(0, len(self.predictions), _TILE)):
            rows, some = slice(row, row + height), slice(m, m + _TILE)
            steps = self.predictions[some, rows] * GRID
            if 2 * max(steps.max(), -steps.min()) > np.iinfo(margins.dtype).max:
                margins = margins.astype(np.int64)
            whole: Integers = np.rint(steps, out=steps).astype(margins.dtype)
            margins[:, rows, some] = self._margins(whole.T, rows)
        return margins

    def _margins(self, steps: Integers, rows: slice) -> Integers:
        """[C, N, M] of whole steps [N, M] or [C, N, M] on some rows."""
        truth = self.truth[rows]
        if steps.ndim == 2:
            return np.asarray((steps * (2 * truth - 1).astype(steps.dtype)[:, None])[None])
        by_class = np.ascontiguousarray(steps)
        return np.asarray(by_class[truth, self.rows[: len(truth)]] - by_class)


class Pearson:
    """r of sum S and labels y from inner products of centred vectors: O(M) a round.

    r_m = (<S,y> + <x_m,y>) / (|y| sqrt(<S,S> + 2 <S,x_m> + <x_m,x_m>)).
    """

    def __init__(self, predictions: Floats, labels: Floats) -> None:
        self.x = predictions - predictions.mean(axis=1, keepdims=True)  # [M, N]
        self.x[is_constant(predictions)] = 0.0  # not even its rounding may correlate
        y = labels - labels.mean()
        self.y_norm = float(np.sqrt(y @ y)) if np.ptp(labels) else 0.0
        self.x_y, self.sums = self.x @ y, _Sums(self.x)
        self.s_y = 0.0

    def scores(self) -> Floats:
        square = self.sums.squares()
        norm = self.y_norm * np.sqrt(np.maximum(square, 0.0))
        is_defined = (square > TOLERANCE * (self.sums.s_s + self.sums.x_x)) & (norm > 0)
        scores = np.zeros(len(self.x))
        np.divide(self.s_y + self.x_y, norm, out=scores, where=is_defined)
        return np.clip(scores, -1.0, 1.0)

    def add(self, candidate: int) -> None:
        self.sums.add(candidate)
        self.s_y += self.x_y[candidate]


class _Sums:
    """|S + x_m|^2 of vectors x [M, N] and a growing sum S of them: O(M) a round, and a column of
    the Gram matrix for each distinct vector in the sum."""

    def __init__(self, x: Floats) -> None:
        self.x, self.x_x = x, np.einsum("mn,mn->m", x, x)
        self.s_x, self.s_s = np.zeros(len(x)), 0.0
        self.columns: dict[int, Floats] = {}

    def squares(self) -> Floats:
        """[M]."""
        return np.asarray(self.s_s + 2 * self.s_x + self.x_x)

    def add(self, m: int) -> None:
        if m not in self.columns:
            self.columns[m] = self.x @ self.x[m]
        self.s_s += 2 * self.s_x[m] + self.x_x[m]
        self.s_x = self.s_x + self.columns[m]


def is_constant(predictions: Floats) -> NDArray[np.bool_]:
    """[M]: whether a candidate puts out the same for every row, up to float32's rounding."""
    constant = _is_constant(predictions[:, :_FEW], 2 * _CONSTANT)  # then it is so on its first rows
    suspects = np.flatnonzero(constant)
    constant[suspects] = _is_constant(predictions[suspects], _CONSTANT)
    return constant


def _is_constant(predictions: Floats, share: float) -> NDArray[np.bool_]:
    flat = predictions if predictions.ndim == 3 else predictions[:, :, None]
    lowest, highest = flat.min(axis=1), flat.max(axis=1)  # [M, C]
    largest = np.maximum(np.abs(lowest), np.abs(highest)).max(axis=1)
    return np.asarray((highest - lowest).max(axis=1) <= share * largest, np.bool_)
