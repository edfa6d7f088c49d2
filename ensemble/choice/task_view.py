"""A task's candidates and their predictions on dev, as a half of it, or all of it, sees them.

Legend: M candidates, N rows, C classes, H halves.
"""

import numpy as np
from numpy.typing import NDArray

from ensemble.candidates.pool import TaskPool
from ensemble.selection.combine import Averaged, Transform
from ensemble.selection.sample import Combination, weighted, weights_and_intercept
from ensemble.statistics.dev_splits import halves
from trainable.config.tasks import Kind
from trainable.evaluation.metrics import task_metric

Floats = NDArray[np.float64]

WHOLE = 0
"""All of dev, where the halves are counted from 1."""


class TaskPredictions:
    """Predictions [M, N] or [M, N, C], and what they are together."""

    def __init__(self, pool: TaskPool, averaged: Averaged, fitted_on: int = WHOLE) -> None:
        """
        Args:
            fitted_on: the half of dev, or all of it, whose rows say what is standard.
        """
        self.pool, self.averaged = pool, averaged
        self.task, self.candidates, self.labels = pool.task, pool.candidates, pool.labels
        self.index = {candidate: m for m, candidate in enumerate(self.candidates)}
        self.ids, self.listed = pool.ids, pool.listed
        self.rows = np.vstack([np.ones(len(pool.ids), np.bool_), halves(pool.ids)])  # [1 + H, N]
        rows = self.rows[fitted_on]
        self.transforms = tuple(
            Transform.fit(pool.task, averaged, outputs[rows], pool.labels[rows])
            for outputs in pool.outputs
        )
        pairs = zip(self.transforms, pool.outputs, strict=True)
        self.predictions = np.stack(
            [transform.apply(pool.task, outputs) for transform, outputs in pairs]
        )
        self._by: dict[int, TaskPredictions] = {fitted_on: self}

    def by(self, which: int) -> "TaskPredictions":
        """The predictions as a half, or all of dev, sees them: standardised by its own rows."""
        is_fitted = self.averaged is Averaged.STANDARDISED and self.task.kind is Kind.SIMILARITY
        if not is_fitted:
            return self
        if which not in self._by:
            self._by[which] = TaskPredictions(self.pool, self.averaged, which)
        return self._by[which]

    def choosable(self, which: int) -> NDArray[np.int64]:
        """The candidates that a half, or all of dev, can choose."""
        return np.flatnonzero(self.pool.choosable[which])

    def ids_of(self, which: int) -> list[str]:
        """Of its rows."""
        return [self.ids[n] for n in np.flatnonzero(self.rows[which])]

    def spread(self, candidates: NDArray[np.int64] | list[int], weights: Floats | float) -> Floats:
        """[M] the weights of some, 0 for the others."""
        found = np.zeros(len(self.candidates))
        found[candidates] = weights
        return found

    def outputs(self, found: Combination, rows: NDArray[np.bool_]) -> Floats:
        """The weighted average, or the linear model, on some rows."""
        weights, intercept = weights_and_intercept(found)
        members = np.flatnonzero(weights)
        predictions = self.predictions[members][:, rows]
        return weighted(self.task, predictions, weights[members], intercept, self.averaged)

    def score(self, found: Combination, rows: NDArray[np.bool_]) -> float:
        """The task's metric on some rows."""
        return task_metric(self.task, self.outputs(found, rows), self.labels[rows])[0]
