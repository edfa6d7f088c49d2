"""Backward elimination: averages with one encoder after another removed.

Legend: M candidates of a task, N rows, C classes.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ensemble.candidates.pool import Candidate
from ensemble.choice.cost import Cost
from ensemble.choice.task_view import TaskView, View
from ensemble.selection.loss_scorers import explained, make_loss
from ensemble.selection.sample import Combination, weights_and_intercept
from ensemble.statistics.arrays import Floats

Weights = Mapping[str, Floats]
"""Task -> [M]."""

MAX_LEVELS = 16
"""Options of what a rule chose that are looked at: every number of encoders up to the half of it,
then ever fewer."""


def eliminated(view: View, weights: Weights, cost: Cost) -> list[Weights]:
    """The weights, then what is left of them when one encoder after the other goes, each time the
    one that is missed the least for what it costs; shares of those that stay are scaled up."""
    members = sorted(members_of(view, weights), key=lambda c: c.order)
    sides = {name: _Side(of_task, weights[name], members) for name, of_task in view.items()}
    left = list(range(len(members)))
    chain: list[Weights] = [weights]
    while True:
        per_cost: dict[int, float] = {}
        for one in left:
            missed = [side.missed(one, left) for side in sides.values()]
            loss = sum(missed) / len(missed)
            if loss < math.inf:
                # What is gained by leaving it out counts first, whatever it cost.
                others = (members[other] for other in left if other != one)
                saved = max(1, cost.saved(members[one], others))
                per_cost[one] = loss / saved if loss > 0 else loss
        if not per_cost:
            return chain
        gone = min(per_cost, key=per_cost.__getitem__)
        left.remove(gone)
        for side in sides.values():
            side.leave_out(gone, left)
        chain.append({name: side.weights for name, side in sides.items()})


def thinned(count: int) -> list[int]:
    """Places of a chain of so many steps, the last of which has the fewest encoders."""
    few = MAX_LEVELS // 2
    if count <= MAX_LEVELS:
        return list(range(count))
    sizes = {
        *range(1, few + 1),
        *np.geomspace(few + 1, count, MAX_LEVELS - few).round().astype(int),
    }
    return sorted(count - int(size) for size in sizes)


def members_of(view: View, combinations: Mapping[str, Combination]) -> set[Candidate]:
    """The distinct ones over all tasks."""
    return {
        view[name].candidates[m]
        for name, combination in combinations.items()
        for m in np.flatnonzero(weights_and_intercept(combination)[0])
    }


class _Side:
    """A task's average as its members go: how much of what it explains each is missed for.

    Args:
        everyone: the members of all tasks; here they are named by their places in it.
    """

    def __init__(self, of_task: TaskView, weights: Floats, everyone: Sequence[Candidate]) -> None:
        fit = of_task.fold.fit
        self.of_task, self.weights, self.labels = of_task, weights, of_task.labels[fit]
        self.where = [of_task.index.get(candidate) for candidate in everyone]
        self.members = np.flatnonzero(weights)
        predictions = of_task.predictions[np.ix_(self.members, np.flatnonzero(fit))]
        self.loss = make_loss(of_task.task, predictions, self.labels, of_task.averaged)
        self.rows = self.loss.values
        self._update()

    def missed(self, member: int, left: Sequence[int]) -> float:
        """What is explained less when one of those that are left goes; inf: no other can answer."""
        m = self.where[member]
        if m is None or not self.weights[m]:
            return 0.0
        if self.by_member:
            return self.by_member[m]
        others = [other for other in left if other != member]
        return math.inf if self._best(others) is None else 0.0

    def leave_out(self, member: int, others: Sequence[int]) -> None:
        """Scale the others up; a task that only this member answered takes the best of them."""
        m = self.where[member]
        if m is None or not self.weights[m]:
            return
        kept = self.weights.copy()
        kept[m] = 0.0
        if not kept.any():
            best = self._best(others)
            assert best is not None
            kept[best] = 1.0
        self.weights = kept / math.fsum(kept)
        self._update()

    def _update(self) -> None:
        """`by_member`: what is explained less without each; none where there is one alone."""
        weights = self.weights[self.members]
        active = np.flatnonzero(weights)
        self.by_member: dict[int, float] = {}
        if len(active) < 2:
            return
        share, rows = weights[active], self.rows[active]
        total = np.tensordot(share, rows, 1)
        flat = share.reshape(-1, *([1] * total.ndim))
        without = (total - flat * rows) / (1 - flat)
        averages = np.concatenate([total[None], without])
        values = explained(self.of_task.task, self.loss, averages, self.labels)
        losses = (values[0] - values[1:]).tolist()
        self.by_member = dict(zip(self.members[active].tolist(), losses, strict=True))

    def _best(self, among: Sequence[int]) -> int | None:
        singles, places = self.of_task.singles, [self.where[member] for member in among]
        having = sorted(m for m in places if m is not None and np.isfinite(singles[m]))
        return max(having, key=lambda m: float(singles[m]), default=None)
