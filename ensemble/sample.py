"""What a rule sees: the votes of a task's candidates on the rows that choose, and their labels.

Candidates have an order of their own here: how they are given changes nothing, and one that is
given twice counts once.

Legend: M candidates, N rows, C classes. Votes [M, N] or [M, N, C].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.combine import average
from ensemble.scorers import is_constant
from trainable.metrics import task_metric
from trainable.tasks import Task

Floats = NDArray[np.float64]

_SMALLEST = 0.005
"""Weights below this share of the largest are dropped: they cost an encoder and change nothing."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows to choose by. Candidates are distinct, not constant, and sorted by their order."""

    task: Task
    votes: Floats
    labels: Floats  # [N]
    is_plain: NDArray[np.bool_]  # [M]: what equal weights are for, e.g. one epoch of each run

    def take(self, rows: NDArray[np.bool_]) -> "Sample":
        """Some of the rows."""
        return Sample(self.task, self.votes[:, rows], self.labels[rows], self.is_plain)

    def among(self, candidates: NDArray[np.int64]) -> "Sample":
        """Some of the candidates, equal weights being for all of them."""
        plain = np.ones(len(candidates), np.bool_)
        return Sample(self.task, self.votes[candidates], self.labels, plain)

    def score(self, weights: Floats) -> float:
        """The task's metric of the weighted average."""
        return task_metric(
            self.task, average(self.task, self.votes, weights.tolist()), self.labels
        )[0]

    @cached_property
    def singles(self) -> Floats:
        """[M] the metric of each candidate."""
        return np.array([task_metric(self.task, vote, self.labels)[0] for vote in self.votes])

    def ranked(self) -> NDArray[np.int64]:
        """[M] candidates, the best first."""
        return np.argsort(-self.singles, kind="stable")


def canonical(
    task: Task,
    votes: Floats,
    labels: Floats,
    order: Sequence[Any],
    is_plain: Sequence[bool] | None = None,
) -> tuple[NDArray[np.int64], Sample]:
    """The candidates that differ and say something, sorted by `order`: which, and their sample."""
    plain = np.ones(len(votes), np.bool_) if is_plain is None else np.asarray(is_plain, np.bool_)
    constant = is_constant(votes)
    seen: dict[bytes, int] = {}
    for m in sorted(range(len(votes)), key=lambda m: order[m]):
        if not constant[m] or constant.all():
            seen.setdefault(votes[m].tobytes(), m)
    kept = np.array(list(seen.values()), np.int64)
    plain = plain[kept] if plain[kept].any() else np.ones(len(kept), np.bool_)
    return kept, Sample(task, votes[kept], labels, plain)


def normal(raw: Floats) -> Floats:
    """Sum 1, without the smallest; rounded, so that no machine's arithmetic shows."""
    kept = np.where(raw >= _SMALLEST * raw.max(), raw, 0.0)
    rounded = np.round(kept / math.fsum(kept), 9)
    return np.asarray(rounded / math.fsum(rounded), np.float64)
