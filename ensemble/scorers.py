"""How well the members so far would do with each candidate added: exact, and fast.

Legend: M candidates, N rows, C classes, s members so far. Votes [M, N] or [M, N, C].
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ensemble.combine import GRID
from trainable.metrics import task_metric
from trainable.tasks import Kind, Task

Floats = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]

TOLERANCE = 1e-12
"""Scores and losses this close are equal: far below a row's worth, above float64's rounding."""
_CONSTANT = 1e-6
"""Votes that differ by less than this share of the largest are float32's rounding of a constant."""
_BLOCK = 128
"""Rows looked at together: they stay in the processor's cache, and their count fits a byte."""
_FACTORS = 32
"""Probabilities multiplied before one logarithm is taken: of at least 1 / GRID, so no underflow."""


class Scorer(Protocol):
    """The members so far with each candidate added; the higher the better."""

    def scores(self) -> Floats:
        """[M]."""

    def add(self, candidate: int) -> None:
        """Make a candidate one of the members so far."""


def make_scorer(task: Task, votes: Floats, labels: Floats) -> Scorer:
    """By the task's metric."""
    if task.metric == "accuracy":
        return Accuracy(task, votes, labels)
    if task.metric == "pearson":
        return Pearson(votes, labels)
    return AnyMetric(task, votes, labels)


def make_loss(task: Task, votes: Floats, labels: Floats) -> "RowLoss":
    """Log-loss of probabilities or logits, squared error of scores."""
    if task.kind is Kind.SIMILARITY:
        return SquaredError(votes, labels)
    if task.kind is Kind.PARAPHRASE:
        return LogisticLoss(votes, labels)
    return LogLoss(votes, labels)


class AnyMetric:
    """A metric without a fast form: each candidate is tried."""

    def __init__(self, task: Task, votes: Floats, labels: Floats) -> None:
        self.task, self.votes, self.labels = task, votes, labels
        self.total = np.zeros_like(votes[0])

    def scores(self) -> Floats:
        # Metrics do not see the scale; sums of float32 scores are exact, so that ranks tie.
        found = [task_metric(self.task, self.total + vote, self.labels)[0] for vote in self.votes]
        return np.array(found)

    def add(self, candidate: int) -> None:
        self.total += self.votes[candidate]


class Accuracy:
    """Margins of the true class over each other, in whole steps of the votes' grid.

    A row is right when all of its margins are above 0. It is looked at for each candidate only
    while candidates can differ on it: sums grow and single votes do not, so soon few rows are left.
    Rows come first in memory, so that those few are read without the others.
    """

    def __init__(self, task: Task, votes: Floats, labels: Floats) -> None:
        truth = labels.astype(np.int64)
        if task.kind is Kind.PARAPHRASE:  # label 1 wants a sum above 0, label 0 one up to 0
            self.total = (truth == 0).astype(np.int64)[:, None]  # [N, C - 1]
        else:  # the arg-max is the lowest of equal classes, so a later class may be equal
            self.total = (_others(truth, votes.shape[2]) > truth[:, None]).astype(np.int64)
        self.margins = np.empty((*self.total.shape, len(votes)), np.int32)  # [N, C - 1, M]
        self.lowest, self.highest = (np.empty(self.total.shape, np.int64) for _ in range(2))
        for start in range(0, len(truth), _BLOCK):
            rows = slice(start, start + _BLOCK)
            margins = _margins(task, votes[:, rows], truth[rows])
            self.lowest[rows], self.highest[rows] = margins.min(axis=2), margins.max(axis=2)
            largest = max(-self.lowest[rows].min(), self.highest[rows].max())
            if largest >= np.iinfo(self.margins.dtype).max:
                self.margins = self.margins.astype(np.int64)
            self.margins[rows] = margins

    def scores(self) -> Floats:
        is_right = (self.total + self.lowest > 0).all(axis=1)
        is_wrong = (self.total + self.highest <= 0).any(axis=1)
        contested = np.flatnonzero(~is_right & ~is_wrong)
        range_ = np.iinfo(self.margins.dtype)
        wanted = np.clip(-self.total, range_.min, range_.max).astype(self.margins.dtype)
        right = np.full(self.margins.shape[2], is_right.sum())
        for start in range(0, len(contested), _BLOCK):
            rows = contested[start : start + _BLOCK]
            beats = self.margins[_slice(rows)] > wanted[rows][:, :, None]
            all_beaten = beats[:, 0]
            for other in range(1, beats.shape[1]):
                all_beaten &= beats[:, other]
            right += all_beaten.view(np.uint8).sum(axis=0, dtype=np.uint8)
        return np.asarray(right / len(is_right), np.float64)

    def add(self, candidate: int) -> None:
        self.total += self.margins[:, :, candidate]


class Pearson:
    """r of sum S and labels y from inner products of centred vectors: O(M) a round.

    r_m = (<S,y> + <x_m,y>) / (|y| sqrt(<S,S> + 2 <S,x_m> + <x_m,x_m>)).
    """

    def __init__(self, votes: Floats, labels: Floats) -> None:
        self.x = votes - votes.mean(axis=1, keepdims=True)  # [M, N]
        self.x[is_constant(votes)] = 0.0  # not even its rounding may correlate
        y = labels - labels.mean()
        self.y_norm = float(np.sqrt(y @ y)) if np.ptp(labels) else 0.0
        self.x_y, self.x_x = self.x @ y, np.einsum("mn,mn->m", self.x, self.x)
        self.s_x, self.s_y, self.s_s = np.zeros(len(votes)), 0.0, 0.0
        self.columns: dict[int, Floats] = {}  # of the Gram matrix, one for each distinct member

    def scores(self) -> Floats:
        square = self.s_s + 2 * self.s_x + self.x_x
        norm = self.y_norm * np.sqrt(np.maximum(square, 0.0))
        is_defined = (square > TOLERANCE * (self.s_s + self.x_x)) & (norm > 0)
        scores = np.zeros(len(self.x))
        np.divide(self.s_y + self.x_y, norm, out=scores, where=is_defined)
        return np.clip(scores, -1.0, 1.0)

    def add(self, candidate: int) -> None:
        if candidate not in self.columns:
            self.columns[candidate] = self.x @ self.x[candidate]
        self.s_s += 2 * self.s_x[candidate] + self.x_x[candidate]
        self.s_x = self.s_x + self.columns[candidate]
        self.s_y += self.x_y[candidate]


class RowLoss:
    """A mean loss over rows: it tells candidates of the same metric apart, or is what counts."""

    def __init__(self, votes: Floats, labels: Floats) -> None:
        self.votes, self.labels, self.count = votes, labels, 0
        self.total = np.zeros_like(self.row_values(0))

    def scores(self) -> Floats:
        return -self.losses(range(len(self.votes)))

    def losses(self, candidates: Sequence[int]) -> Floats:
        means = ((self.total + self.row_values(m)) / (self.count + 1) for m in candidates)
        return np.array([self.mean_loss(mean) for mean in means])

    def add(self, candidate: int) -> None:
        self.total += self.row_values(candidate)
        self.count += 1

    def row_values(self, candidate: int) -> Floats:
        """[N] all that the loss asks of a candidate."""
        return np.asarray(self.votes[candidate])

    def mean_loss(self, values: Floats) -> float:
        """Of an average's [N] values."""
        raise NotImplementedError


class LogLoss(RowLoss):
    """Of class probabilities: only that of the true class matters."""

    def __init__(self, votes: Floats, labels: Floats) -> None:
        super().__init__(votes[:, np.arange(len(labels)), labels.astype(np.int64)], labels)

    def mean_loss(self, values: Floats) -> float:
        return -_sum_of_logs(np.maximum(values, 1 / GRID)) / len(values)


class LogisticLoss(RowLoss):
    """Of logits: log(1 + exp(-z)), z positive where the label is met."""

    def __init__(self, votes: Floats, labels: Floats) -> None:
        self.signs = np.where(labels > 0, 1.0, -1.0)
        super().__init__(votes, labels)

    def mean_loss(self, values: Floats) -> float:
        misses = np.maximum(
            -values * self.signs, 0.0
        )  # log(1 + exp(-z)) = this + log(1 + exp(-|z|))
        return (_sum_of_logs(1.0 + np.exp(-np.abs(values))) + float(misses.sum())) / len(values)


class SquaredError(RowLoss):
    """Of scores. All candidates at once by inner products."""

    def mean_loss(self, values: Floats) -> float:
        return float(np.mean((values - self.labels) ** 2))

    @cached_property
    def products(self) -> tuple[Floats, Floats]:
        """<x_m,y> and <x_m,x_m>, [M] each."""
        return self.votes @ self.labels, np.einsum("mn,mn->m", self.votes, self.votes)

    def scores(self) -> Floats:
        (x_y, x_x), n = self.products, self.count + 1
        square = (self.total @ self.total + 2 * (self.votes @ self.total) + x_x) / n**2
        found = square - 2 * (self.total @ self.labels + x_y) / n + self.labels @ self.labels
        return -np.asarray(found / len(self.labels), np.float64)


def is_constant(votes: Floats) -> NDArray[np.bool_]:
    """[M]: whether a candidate puts out the same for every row, up to float32's rounding."""
    found = _is_constant(votes[:, :_BLOCK], 2 * _CONSTANT)  # then it is so on its first rows
    suspects = np.flatnonzero(found)
    found[suspects] = _is_constant(votes[suspects], _CONSTANT)
    return found


def _is_constant(votes: Floats, share: float) -> NDArray[np.bool_]:
    flat = votes if votes.ndim == 3 else votes[:, :, None]
    lowest, highest = flat.min(axis=1), flat.max(axis=1)  # [M, C]
    largest = np.maximum(np.abs(lowest), np.abs(highest)).max(axis=1)
    return np.asarray((highest - lowest).max(axis=1) <= share * largest, np.bool_)


def _margins(task: Task, votes: Floats, truth: NDArray[np.int64]) -> Floats:
    """Of some rows [N, C - 1, M], in whole steps."""
    steps = np.rint(votes.T * GRID) if votes.ndim == 2 else np.rint(votes.transpose(1, 2, 0) * GRID)
    if task.kind is Kind.PARAPHRASE:
        return np.asarray((steps * (2 * truth - 1)[:, None])[:, None, :])
    rows, others = np.arange(len(truth)), _others(truth, steps.shape[1])
    return np.asarray(steps[rows, truth][:, None] - steps[rows[:, None], others])


def _others(truth: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """[N, C - 1] the classes without the true one."""
    others = np.arange(num_classes - 1)[None, :]
    return np.asarray(others + (others >= truth[:, None]))


def _slice(rows: NDArray[np.int64]) -> Any:
    """The rows as a slice if they are neighbours: no copy is made of what they index."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows


def _sum_of_logs(values: Floats) -> float:
    """Of values of 1 / GRID to 2, with one logarithm for many of them."""
    num_products = len(values) // _FACTORS
    whole = num_products * _FACTORS
    products = values[:whole].reshape(_FACTORS, num_products).prod(axis=0)
    return float(np.log(products).sum() + np.log(values[whole:]).sum())
