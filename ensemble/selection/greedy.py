"""Greedy selection with replacement for one task. NumPy only, no files, no randomness.

Each round adds the candidate with which the average scores best. Ties go to a member already in,
then the lower loss, then the candidate that `order` puts first: nothing depends on the order in
which candidates are given, and a candidate given twice changes nothing.

Legend: M candidates, N rows, C classes. Predictions [M, N] or [M, N, C] are such as
`ensemble.selection.combine` makes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.selection.combine import Averaged
from ensemble.selection.loss_scorers import RowLoss, make_loss
from ensemble.selection.scorers import TOLERANCE, Objective, is_constant, make_scorer
from ensemble.statistics.arrays import Floats
from ensemble.statistics.effort import SHIPPED
from trainable.config.tasks import Task


@dataclass(frozen=True)
class Selection:
    """How much each candidate counts, and how well that does on the rows it was chosen on.

    Scores are the task's metric, or a loss with its sign turned.
    """

    weights: tuple[float, ...]  # [M], at least 0, sum 1
    trajectory: tuple[float, ...]  # score after each addition, also those after the best prefix
    score: float  # of `weights`


def greedy(
    task: Task,
    predictions: Floats,
    labels: Floats,
    order: Sequence[Any],
    num_rounds: int = SHIPPED.num_rounds,
    *,
    objective: Objective = Objective.METRIC,
    num_sorted: int = 1,
    max_members: int | None = None,
    averaged: Averaged = Averaged.PAPER,
) -> Selection:
    """The shortest prefix with the best score among `num_rounds` additions.

    It starts from the best single candidate, so it is at least as good on these rows. Candidates
    that put out the same for every row are left out, unless all do.

    Args:
        labels: [N].
        order: [M] distinct sortable values; where candidates tie, the lowest is taken.
        num_sorted: so many of the best single candidates are added first, the best first.
        max_members: distinct ones, at most; once they are in, only their weights change.
        averaged: what predictions are.
    """
    eligible = _eligible(predictions)
    loss = make_loss(task, predictions, labels, averaged)
    scorer = make_scorer(task, predictions, labels, objective, averaged)
    is_member, num_members = np.zeros(len(predictions), np.bool_), 0
    picks: list[int] = []
    trajectory: list[float] = []
    alone: Floats | None = None
    while len(picks) < num_rounds:
        scores = scorer.scores()
        alone = scores if alone is None else alone
        allowed, by = eligible, scores
        if len(picks) < min(num_sorted, len(eligible)):
            allowed, by = eligible[~is_member[eligible]], alone
        elif max_members is not None and num_members >= max_members:
            allowed = np.flatnonzero(is_member)
        some = by[allowed]
        tied = allowed[_is_equal(some, some.max())]
        members = tied[is_member[tied]]
        pick = _first(members if len(members) else tied, loss, order)
        scorer.add(pick)
        loss.add(pick)
        num_members += not is_member[pick]
        is_member[pick] = True
        picks.append(pick)
        trajectory.append(float(scores[pick]))
    length = 1 + int(_is_equal(np.array(trajectory), max(trajectory)).argmax())
    weights = np.bincount(picks[:length], minlength=len(predictions)) / length
    return Selection(tuple(weights.tolist()), tuple(trajectory), trajectory[length - 1])


def best_single(
    task: Task,
    predictions: Floats,
    labels: Floats,
    order: Sequence[Any],
    averaged: Averaged = Averaged.PAPER,
) -> Selection:
    """The candidate with the best metric, of predictions [M, N] or [M, N, C]; the same ties as
    `greedy`, whose start it is."""
    return greedy(task, predictions, labels, order, num_rounds=1, averaged=averaged)


def _first(tied: NDArray[np.int64], loss: RowLoss, order: Sequence[Any]) -> int:
    """The one with the lowest loss among equals; of those, the first by `order`."""
    if len(tied) > 1:
        losses = loss.losses(tied.tolist())
        tied = tied[_is_equal(-losses, -losses.min())]
    return int(min(tied, key=lambda m: order[m]))


def _is_equal(scores: Floats, best: float) -> NDArray[np.bool_]:
    """Which of them are the best; losses may be large."""
    return np.asarray(scores >= best - TOLERANCE * max(1.0, abs(best)))


def _eligible(predictions: Floats) -> NDArray[np.int64]:
    constant = is_constant(predictions)
    return np.arange(len(predictions)) if constant.all() else np.flatnonzero(~constant)
