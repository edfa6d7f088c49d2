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
    sides = {name: _Side(of_task, weights[name]) for name, of_task in view.items()}
    members = sorted(members_of(view, weights), key=lambda c: c.order)
    chain: list[Weights] = [weights]
    while True:
        per_cost: dict[Candidate, float] = {}
        for candidate in members:
            missed = [side.missed(candidate, members) for side in sides.values()]
            loss = sum(missed) / len(missed)
            if loss < math.inf:
                # What is gained by leaving it out counts first, whatever it cost.
                others = (c for c in members if c is not candidate)
                saved = max(1, cost.saved(candidate, others))
                per_cost[candidate] = loss / saved if loss > 0 else loss
        if not per_cost:
            return chain
        gone = min(per_cost, key=per_cost.__getitem__)
        members.remove(gone)
        for side in sides.values():
            side.leave_out(gone, members)
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
    """A task's average as its members go: how much of what it explains each is missed for."""

    def __init__(self, of_task: TaskView, weights: Floats) -> None:
        fit = of_task.fold.fit
        self.of_task, self.weights, self.labels = of_task, weights, of_task.labels[fit]
        self.members = np.flatnonzero(weights)
        predictions = of_task.predictions[self.members][:, fit]
        self.loss = make_loss(of_task.task, predictions, self.labels, of_task.averaged)
        self.rows = self.loss.row_values(range(len(self.members)))
        self._update()

    def missed(self, candidate: Candidate, members: Sequence[Candidate]) -> float:
        """What is explained less when one of the members goes; inf: no other can answer."""
        m = self.of_task.index.get(candidate)
        if m is None or not self.weights[m]:
            return 0.0
        if self.by_member:
            return self.by_member[m]
        others = [c for c in members if c is not candidate]
        return math.inf if self._best(others) is None else 0.0

    def leave_out(self, candidate: Candidate, others: Sequence[Candidate]) -> None:
        """Scale the others up; a task that only this candidate answered takes the best of them."""
        m = self.of_task.index.get(candidate)
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

    def _best(self, among: Sequence[Candidate]) -> int | None:
        index, singles = self.of_task.index, self.of_task.singles
        having = sorted(index[c] for c in among if c in index and np.isfinite(singles[index[c]]))
        return max(having, key=lambda m: float(singles[m]), default=None)
