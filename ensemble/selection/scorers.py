"""Scores of the current members' average with each candidate added: exact, and fast.

Legend: M candidates, N rows, C classes. Predictions [M, N] or [M, N, C].
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
"""Scores this close are equal: far less than one row's contribution, and more than float64's
rounding errors."""
_CONSTANT = 1e-6
"""Predictions whose range is below this share of the largest are a constant, up to rounding."""
_FIRST_ROWS = 8
"""Rows on which nearly every candidate is already seen not to be constant."""
_TILE = 256
"""Rows and candidates whose margins are computed together, so that they stay in the processor's
cache."""
_BLOCK_SIZE = 2**17
"""Margins compared together, for the same reason."""
_MAX_ROWS = 255
"""Maximum number of rows compared together, so that their count fits in a byte."""


class Objective(StrEnum):
    """What greedy selection optimises."""

    METRIC = "metric"  # the task's
    LOSS = "loss"  # log-loss of probabilities or logits, squared error of scores


class Scorer(Protocol):
    """Scores the current members with each candidate added; higher is better."""

    def scores(self) -> Floats:
        """Return [M] the score with each candidate added."""

    def add(self, candidate: int) -> None:
        """Add a candidate to the current members."""


def make_scorer(
    task: Task,
    predictions: Floats,
    labels: Floats,
    objective: Objective,
    averaged: Averaged = Averaged.PAPER,
) -> Scorer:
    """Return the scorer for an objective, given predictions [M, N] or [M, N, C] and labels [N]."""
    if objective is Objective.LOSS:
        return make_loss(task, predictions, labels, averaged)
    if task.metric == "accuracy" and task.kind.output is not Output.LABELS:
        return Accuracy(task, predictions, labels)
    if task.metric == "pearson":
        return Pearson(predictions, labels)
    return AnyMetric(task, predictions, labels)


class AnyMetric:
    """Scores by any metric, computed for each candidate from scratch."""

    def __init__(self, task: Task, predictions: Floats, labels: Floats) -> None:
        self.task, self.predictions, self.labels = task, predictions, labels
        self.total = np.zeros_like(predictions[0])

    def scores(self) -> Floats:
        # The sum replaces the average: metrics do not depend on the scale, and sums of float32
        # scores are exact in float64, so that equal ranks tie.
        scores = [
            task_metric(self.task, self.total + prediction, self.labels)[0]
            for prediction in self.predictions
        ]
        return np.array(scores)

    def add(self, candidate: int) -> None:
        self.total += self.predictions[candidate]


class Accuracy:
    """Scores by accuracy, from the margins of the true class over each class.

    Margins are integers, in steps of the predictions' grid. A row is right if all of its margins
    are above 0; the margin of the true class over itself is set to 1. A margin is compared for each
    candidate only while candidates can still differ on it: the members' sum grows and single
    predictions do not, so soon few such margins are left. Candidates are the last axis in memory,
    so that those margins are contiguous.
    """

    def __init__(self, task: Task, predictions: Floats, labels: Floats) -> None:
        self.predictions, self.truth = predictions, labels.astype(np.int64)
        self.rows = np.arange(len(labels))
        # `total` starts at 1 where a tie counts as right, so that right always means above 0.
        if task.kind.output is Output.BINARY:  # a logit of 0 is label 0
            self.total = (self.truth == 0).astype(np.int64)[None]  # [C, N] with C = 1
        else:  # the arg-max is the first of equal classes, so later classes may tie
            self.total = (np.arange(predictions.shape[2])[:, None] >= self.truth).astype(np.int64)
        margins = self._all_margins()  # [C, N, M]
        self.max_unsure = -margins.min(axis=2).astype(np.int64)  # totals above: > 0 with any
        self.max_hopeless = -margins.max(axis=2).astype(np.int64)  # totals up to it: <= 0 with any
        self.planes = margins.reshape(-1, len(predictions))  # [C * N, M]

    def scores(self) -> Floats:
        is_wrong = (self.total <= self.max_hopeless).any(axis=0)  # [N] whichever is added
        is_open = (self.total <= self.max_unsure) & ~is_wrong  # [C, N] depends on the candidate
        num_open = is_open.view(np.uint8).sum(axis=0, dtype=np.uint8)
        thresholds = -self.total.ravel()
        sizes = np.bincount(num_open)[1:]  # numbers of rows by their number of open margins
        right = np.full(len(self.predictions), len(self.rows) - is_wrong.sum() - sizes.sum())
        height = min(_MAX_ROWS, max(1, _BLOCK_SIZE // len(self.predictions)))
        for count in (1 + np.flatnonzero(sizes)).tolist():
            rows = np.flatnonzero(num_open == count)
            if count == len(is_open):
                classes = np.broadcast_to(np.arange(count)[:, None], (count, len(rows)))
            else:
                classes = np.nonzero(is_open.T[rows])[1].reshape(len(rows), count).T
            for start in range(0, len(rows), height):
                some = slice(start, start + height)
                planes = classes[:, some] * len(self.rows) + rows[some]  # [count, rows]
                is_right = self._exceeds(planes[0], thresholds)
                for plane in planes[1:]:
                    is_right &= self._exceeds(plane, thresholds)
                right += is_right.view(np.uint8).sum(axis=0, dtype=np.uint8)
        return np.asarray(right / len(self.rows), np.float64)

    def add(self, candidate: int) -> None:
        # Computed from the prediction: in `planes` a candidate's margins are not contiguous.
        steps = np.rint(self.predictions[candidate] * GRID).astype(np.int64)
        self.total += self._margins(steps.T[..., None], slice(None))[..., 0]

    def _exceeds(self, plane: Integers, thresholds: Integers) -> NDArray[np.bool_]:
        """Return [n, M] whether the margins at n places of `planes` exceed their thresholds."""
        range_ = np.iinfo(self.planes.dtype)
        limits = np.minimum(np.maximum(thresholds[plane], range_.min), range_.max)
        is_slice = len(plane) > 1 and (np.diff(plane) == 1).all()  # a slice is not copied
        margins = self.planes[plane[0] : plane[-1] + 1] if is_slice else self.planes[plane]
        return np.asarray(margins > limits.astype(self.planes.dtype)[:, None])

    def _all_margins(self) -> Integers:
        """Return [C, N, M] all margins, computed in tiles: transposing everything at once would
        miss the cache."""
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
        """Return [C, N, M] margins on some rows, from predictions in grid steps [N, M] or
        [C, N, M]."""
        truth = self.truth[rows]
        if steps.ndim == 2:
            return np.asarray((steps * (2 * truth - 1).astype(steps.dtype)[:, None])[None])
        by_class = np.ascontiguousarray(steps)
        return np.asarray(by_class[truth, self.rows[: len(truth)]] - by_class)


class Pearson:
    """Scores by Pearson's r between labels y and the members' sum S plus each candidate x_m.

    Computed from inner products of centred vectors, in O(M) a round:

    r_m = (<S,y> + <x_m,y>) / (|y| sqrt(<S,S> + 2 <S,x_m> + <x_m,x_m>)).
    """

    def __init__(self, predictions: Floats, labels: Floats) -> None:
        self.x = predictions - predictions.mean(axis=1, keepdims=True)  # [M, N]
        self.x[is_constant(predictions)] = 0.0  # rounding errors must not correlate
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
    """|S + x_m|^2 for vectors x [M, N] and a growing sum S of some of them: O(M) a round, plus one
    column of the Gram matrix for each distinct vector in the sum."""

    def __init__(self, x: Floats) -> None:
        self.x, self.x_x = x, np.einsum("mn,mn->m", x, x)
        self.s_x, self.s_s = np.zeros(len(x)), 0.0
        self.columns: dict[int, Floats] = {}

    def squares(self) -> Floats:
        """Return [M] |S + x_m|^2."""
        return np.asarray(self.s_s + 2 * self.s_x + self.x_x)

    def add(self, m: int) -> None:
        if m not in self.columns:
            self.columns[m] = self.x @ self.x[m]
        self.s_s += 2 * self.s_x[m] + self.x_x[m]
        self.s_x = self.s_x + self.columns[m]


def is_constant(predictions: Floats) -> NDArray[np.bool_]:
    """Return [M] whether a candidate predicts the same for every row, up to float32's rounding."""
    constant = _is_constant(predictions[:, :_FIRST_ROWS], 2 * _CONSTANT)
    suspects = np.flatnonzero(constant)
    constant[suspects] = _is_constant(predictions[suspects], _CONSTANT)
    return constant


def _is_constant(predictions: Floats, share: float) -> NDArray[np.bool_]:
    flat = predictions if predictions.ndim == 3 else predictions[:, :, None]
    lowest, highest = flat.min(axis=1), flat.max(axis=1)  # [M, C]
    largest = np.maximum(np.abs(lowest), np.abs(highest)).max(axis=1)
    return np.asarray((highest - lowest).max(axis=1) <= share * largest, np.bool_)
