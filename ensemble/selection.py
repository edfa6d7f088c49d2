"""Greedy selection with replacement for one task. NumPy only, no files, no randomness.

Each round adds the candidate with which the average scores best. Ties go to a member already in,
then the lower loss, then the candidate that `order` puts first: nothing depends on the order in
which candidates are given, and a candidate given twice changes nothing.

Legend: M candidates, N rows, C classes. Votes [M, N] or [M, N, C] as `ensemble.combine` makes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ensemble.combine import GRID, average
from trainable.metrics import task_metric
from trainable.tasks import Kind, Task

Floats = NDArray[np.float64]

NUM_ROUNDS = 50
_TOLERANCE = 1e-12
"""Scores and losses this close are equal: far below a row's worth, above float64's rounding."""
_CONSTANT = 1e-6
"""Votes that differ by less than this share of the largest are float32's rounding of a constant."""


@dataclass(frozen=True)
class Selection:
    """How much each candidate counts, and how well that does on the rows it was chosen on."""

    weights: tuple[float, ...]  # [M], at least 0, sum 1
    trajectory: tuple[float, ...]  # metric after each addition, also those after the best prefix
    score: float  # the metric of `weights`


def greedy(
    task: Task,
    votes: Floats,
    labels: Floats,
    order: Sequence[Any],
    num_rounds: int = NUM_ROUNDS,
) -> Selection:
    """The shortest prefix with the best metric among `num_rounds` additions.

    It starts from the best single candidate, so it is at least as good on these rows. Candidates
    that put out the same for every row are left out, unless all do.

    Args:
        labels: [N].
        order: [M] distinct sortable values; where candidates tie, the lowest is taken.
    """
    eligible = _eligible(votes)
    scorer = _make_scorer(task, votes, labels)
    total, counts = np.zeros_like(votes[0]), np.zeros(len(votes), np.int64)
    picks: list[int] = []
    trajectory: list[float] = []
    for _ in range(num_rounds):
        scores = scorer.scores()
        tied = [m for m in eligible if scores[m] >= scores[eligible].max() - _TOLERANCE]
        tied = [m for m in tied if counts[m]] or tied
        if len(tied) > 1:
            losses = [_loss(task, (total + votes[m]) / (len(picks) + 1), labels) for m in tied]
            limit = min(losses) + _TOLERANCE * max(1.0, min(losses))
            tied = [m for m, loss in zip(tied, losses, strict=True) if loss <= limit]
        pick = min(tied, key=lambda m: order[m])
        scorer.add(pick)
        total += votes[pick]
        counts[pick] += 1
        picks.append(pick)
        trajectory.append(float(scores[pick]))
    length = next(i for i, s in enumerate(trajectory, 1) if s >= max(trajectory) - _TOLERANCE)
    weights = np.bincount(picks[:length], minlength=len(votes)) / length
    return Selection(tuple(weights.tolist()), tuple(trajectory), trajectory[length - 1])


def best_single(task: Task, votes: Floats, labels: Floats, order: Sequence[Any]) -> Selection:
    """The candidate with the best metric; the same ties as `greedy`, whose start it is."""
    return greedy(task, votes, labels, order, num_rounds=1)


def simple(task: Task, votes: Floats, labels: Floats) -> Selection:
    """All candidates, equal weights."""
    weights = (1 / len(votes),) * len(votes)
    score, _ = task_metric(task, average(task, votes, weights), labels)
    return Selection(weights, (score,), score)


class _Scorer(Protocol):
    """The metric of the members so far with each candidate added."""

    def scores(self) -> Floats:
        """[M]."""

    def add(self, candidate: int) -> None:
        """Make a candidate one of the members so far."""


def _make_scorer(task: Task, votes: Floats, labels: Floats) -> _Scorer:
    if task.metric == "accuracy":
        return _Accuracy(task, votes, labels)
    if task.metric == "pearson":
        return _Pearson(votes, labels)
    return _AnyMetric(task, votes, labels)


class _AnyMetric:
    def __init__(self, task: Task, votes: Floats, labels: Floats) -> None:
        self.task, self.votes, self.labels = task, votes, labels
        self.total = np.zeros_like(votes[0])

    def scores(self) -> Floats:
        # Metrics do not see the scale; sums of float32 scores are exact, so that ranks tie.
        found = [task_metric(self.task, self.total + vote, self.labels)[0] for vote in self.votes]
        return np.array(found)

    def add(self, candidate: int) -> None:
        self.total += self.votes[candidate]


class _Accuracy:
    """Margins of the true class over each other, in whole steps of the votes' grid.

    A row is right when all of its margins are above 0. It is looked at for each candidate only
    while candidates can differ on it: sums grow and single votes do not, so soon few rows are left.
    """

    def __init__(self, task: Task, votes: Floats, labels: Floats) -> None:
        steps = np.rint(votes * GRID).astype(np.int64)
        truth = labels.astype(np.int64)
        if task.kind is Kind.PARAPHRASE:  # label 1 wants a sum above 0, label 0 one up to 0
            self.margins = (steps * (2 * truth - 1))[:, :, None]  # [M, N, 1]
            self.total = (truth == 0).astype(np.int64)[:, None]
        else:  # the arg-max is the lowest of equal classes, so a later class may be equal
            num_rows, num_classes = steps.shape[1:]
            others = np.arange(num_classes - 1)[None, :]  # [N, C-1], the true class left out
            others = others + (others >= truth[:, None])
            rows = np.arange(num_rows)
            self.margins = steps[:, rows, truth][:, :, None] - steps[:, rows[:, None], others]
            self.total = (others > truth[:, None]).astype(np.int64)
        self.lowest, self.highest = self.margins.min(axis=0), self.margins.max(axis=0)

    def scores(self) -> Floats:
        is_right = (self.total + self.lowest > 0).all(axis=1)
        is_wrong = (self.total + self.highest <= 0).any(axis=1)
        contested = np.flatnonzero(~is_right & ~is_wrong)
        right = (self.total[contested] + self.margins[:, contested] > 0).all(axis=2).sum(axis=1)
        return np.asarray((right + is_right.sum()) / len(is_right), np.float64)

    def add(self, candidate: int) -> None:
        self.total = self.total + self.margins[candidate]


class _Pearson:
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
        is_defined = (square > _TOLERANCE * (self.s_s + self.x_x)) & (norm > 0)
        scores = np.zeros(len(self.x))
        np.divide(self.s_y + self.x_y, norm, out=scores, where=is_defined)
        return np.clip(scores, -1.0, 1.0)

    def add(self, candidate: int) -> None:
        if candidate not in self.columns:
            self.columns[candidate] = self.x @ self.x[candidate]
        self.s_s += 2 * self.s_x[candidate] + self.x_x[candidate]
        self.s_x = self.s_x + self.columns[candidate]
        self.s_y += self.x_y[candidate]


def _loss(task: Task, mean: Floats, labels: Floats) -> float:
    """Log-loss, or the squared error of scores: what tells candidates of the same metric apart."""
    if task.kind is Kind.SIMILARITY:
        return float(np.mean((mean - labels) ** 2))
    if task.kind is Kind.PARAPHRASE:
        return float(np.mean(np.logaddexp(0.0, np.where(labels > 0, -mean, mean))))
    truth = mean[np.arange(len(labels)), labels.astype(np.int64)]
    return float(-np.mean(np.log(np.maximum(truth, 1 / GRID))))


def _eligible(votes: Floats) -> NDArray[np.int64]:
    constant = is_constant(votes)
    return np.arange(len(votes)) if constant.all() else np.flatnonzero(~constant)


def is_constant(votes: Floats) -> NDArray[np.bool_]:
    """[M]: whether a candidate puts out the same for every row, up to float32's rounding."""
    flat = votes.reshape(len(votes), votes.shape[1], -1)
    spread = np.ptp(flat, axis=1).max(axis=1)
    return np.asarray(spread <= _CONSTANT * np.abs(flat).max(axis=(1, 2)), np.bool_)
