"""Backward elimination: ensembles with one candidate after another removed.

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
from ensemble.statistics.sizes import spaced_sizes

Weights = Mapping[str, Floats]
"""Task -> [M]."""

MAX_LEVELS = 16
"""Maximum number of steps of an elimination that become options."""


def eliminated(view: View, weights: Weights, cost: Cost) -> list[Weights]:
    """Return the weights, then those after each removal of one member from all tasks.

    Each step removes the member with the smallest loss in what the ensemble explains, per parameter
    saved; the weights of the others are scaled up to sum 1.
    """
    members = sorted(members_of(view, weights), key=lambda c: c.order)
    averages = {
        name: _TaskAverage(of_task, weights[name], members) for name, of_task in view.items()
    }
    remaining = list(range(len(members)))
    chain: list[Weights] = [weights]
    while True:
        loss_per_cost: dict[int, float] = {}
        for member in remaining:
            losses = [average.loss_without(member, remaining) for average in averages.values()]
            loss = sum(losses) / len(losses)
            if loss < math.inf:
                # A removal that is a gain comes first, regardless of the cost saved.
                others = (members[other] for other in remaining if other != member)
                saved = max(1, cost.saved(members[member], others))
                loss_per_cost[member] = loss / saved if loss > 0 else loss
        if not loss_per_cost:
            return chain
        removed = min(loss_per_cost, key=loss_per_cost.__getitem__)
        remaining.remove(removed)
        for average in averages.values():
            average.remove(removed, remaining)
        chain.append({name: average.weights for name, average in averages.items()})


def thin(num_steps: int) -> list[int]:
    """Return the indices of at most `MAX_LEVELS` steps of a chain, whose last step has the fewest
    members."""
    return sorted(num_steps - size for size in spaced_sizes(num_steps, MAX_LEVELS))


def members_of(view: View, combinations: Mapping[str, Combination]) -> set[Candidate]:
    """Return the distinct members over all tasks."""
    return {
        view[name].candidates[m]
        for name, combination in combinations.items()
        for m in np.flatnonzero(weights_and_intercept(combination)[0])
    }


class _TaskAverage:
    """A task's average while members are removed, and what it explains without each.

    Args:
        weights: [M].
        members: the members of all tasks; the methods take indices into it.
    """

    def __init__(self, of_task: TaskView, weights: Floats, members: Sequence[Candidate]) -> None:
        fit = of_task.fold.fit
        self.of_task, self.weights, self.labels = of_task, weights, of_task.labels[fit]
        self.candidate_of = [of_task.index.get(member) for member in members]  # or None
        self.members = np.flatnonzero(weights)
        predictions = of_task.predictions[np.ix_(self.members, np.flatnonzero(fit))]
        self.loss = make_loss(of_task.task, predictions, self.labels, of_task.averaged)
        self.rows = self.loss.values
        self._update()

    def loss_without(self, member: int, remaining: Sequence[int]) -> float:
        """Return how much less is explained without one of the remaining members; inf: no other
        one has the task."""
        m = self.candidate_of[member]
        if m is None or not self.weights[m]:
            return 0.0
        if self.losses:
            return self.losses[m]
        others = [other for other in remaining if other != member]
        return math.inf if self._best(others) is None else 0.0

    def remove(self, member: int, others: Sequence[int]) -> None:
        """Remove a member. If it is the task's only one, the best of the others replaces it."""
        m = self.candidate_of[member]
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
        """Compute `losses`: how much less is explained without each candidate; empty if there is
        only one."""
        weights = self.weights[self.members]
        active = np.flatnonzero(weights)
        self.losses: dict[int, float] = {}
        if len(active) < 2:
            return
        share, rows = weights[active], self.rows[active]
        total = np.tensordot(share, rows, 1)
        flat = share.reshape(-1, *([1] * total.ndim))
        without = (total - flat * rows) / (1 - flat)
        averages = np.concatenate([total[None], without])
        values = explained(self.of_task.task, self.loss, averages, self.labels)
        losses = (values[0] - values[1:]).tolist()
        self.losses = dict(zip(self.members[active].tolist(), losses, strict=True))

    def _best(self, members: Sequence[int]) -> int | None:
        """Return the best candidate for the task among some members; None: none has the task."""
        singles, candidates = self.of_task.singles, [self.candidate_of[each] for each in members]
        usable = sorted(m for m in candidates if m is not None and np.isfinite(singles[m]))
        return max(usable, key=lambda m: float(singles[m]), default=None)
