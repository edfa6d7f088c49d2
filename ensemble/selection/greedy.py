"""Greedy ensemble selection with replacement for one task (Caruana et al., 2004), deterministic.

Each round adds the candidate with which the average scores best. Ties go to a current member, then
to the lower loss, then to the first by `order`: the result does not depend on the order in which
candidates are passed, and a duplicate candidate changes nothing.

Legend: M candidates, N rows, C classes. Predictions [M, N] or [M, N, C] are as
`ensemble.selection.combine.Transform.apply` returns them.
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
    """Each candidate's weight, and in-sample scores.

    Scores are the task's metric or, for the loss objective, the negated loss.
    """

    weights: tuple[float, ...]  # [M], at least 0, sum 1
    trajectory: tuple[float, ...]  # score after each addition, including those after the best
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
    """Return the shortest prefix of `num_rounds` additions with the best score.

    The first addition is the best single candidate, so the result is at least as good on these
    rows. Candidates with a constant prediction are excluded, unless all are constant.

    Args:
        predictions: [M, N] or [M, N, C].
        labels: [N].
        order: [M] distinct sortable values; where candidates tie, the lowest wins.
        num_sorted: number of additions that take the best single candidates in order before the
            greedy ones start.
        max_members: maximum number of distinct candidates; once it is reached, only their weights
            change.
        averaged: what the predictions are.
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
    """Return the candidate with the best metric, of predictions [M, N] or [M, N, C]; ties are
    resolved as in `greedy`."""
    return greedy(task, predictions, labels, order, num_rounds=1, averaged=averaged)


def _first(tied: NDArray[np.int64], loss: RowLoss, order: Sequence[Any]) -> int:
    """Return the tied candidate with the lowest loss; of equal losses, the first by `order`."""
    if len(tied) > 1:
        losses = loss.losses(tied.tolist())
        tied = tied[_is_equal(-losses, -losses.min())]
    return int(min(tied, key=lambda m: order[m]))


def _is_equal(scores: Floats, best: float) -> NDArray[np.bool_]:
    """Return which scores equal the best, up to rounding; negated losses may be large."""
    return np.asarray(scores >= best - TOLERANCE * max(1.0, abs(best)))


def _eligible(predictions: Floats) -> NDArray[np.int64]:
    constant = is_constant(predictions)
    return np.arange(len(predictions)) if constant.all() else np.flatnonzero(~constant)
