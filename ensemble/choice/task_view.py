"""A task's candidates and their predictions on dev, as one fold of it sees them.

Legend: M candidates, N rows, C classes, H halves.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ensemble.candidates.pool import Candidate, Pool, TaskPool
from ensemble.selection.combine import Averaged, Transform
from ensemble.selection.sample import Combination, weighted, weights_and_intercept
from ensemble.statistics.arrays import Floats, Mask
from ensemble.statistics.dev_splits import Fold, folds
from trainable.config.tasks import Output, Task
from trainable.evaluation.metrics import overall, task_metric, task_metrics


@dataclass(frozen=True, eq=False)
class TaskView:
    """What a fold sees of a task: which candidates it can choose, and what they predict."""

    pool: TaskPool
    averaged: Averaged
    fold: Fold
    choosable: NDArray[np.int64]  # the candidates that the fold can choose
    transforms: tuple[Transform, ...]  # [M]
    predictions: Floats  # [M, N] or [M, N, C]

    @property
    def task(self) -> Task:
        return self.pool.task

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """[M]."""
        return self.pool.candidates

    @property
    def labels(self) -> Floats:
        """[N]."""
        return self.pool.labels

    @property
    def index(self) -> dict[Candidate, int]:
        """Where each candidate is among the M."""
        return self.pool.index

    @property
    def ids(self) -> list[str]:
        """Ids of the rows that choose."""
        return [self.pool.ids[n] for n in np.flatnonzero(self.fold.fit)]

    @cached_property
    def singles(self) -> Floats:
        """[M] each candidate's metric on the rows that choose; -inf where it cannot be chosen."""
        scores = np.full(len(self.candidates), -np.inf)
        fit = self.fold.fit
        choosable = self.predictions[np.ix_(self.choosable, np.flatnonzero(fit))]
        scores[self.choosable] = task_metrics(self.task, choosable, self.labels[fit])
        return scores

    def among(self, candidates: Collection[Candidate]) -> "TaskView":
        """The same, with some of the candidates to choose from."""
        some = [m for m in self.choosable if self.candidates[m] in candidates]
        return replace(self, choosable=np.array(some, np.int64))

    def within(self, judge: Mask) -> "TaskView":
        """The same, by the rows that choose alone: some of them [n] judge, the others choose."""
        rows = np.flatnonzero(self.fold.fit)
        fold = Fold(np.zeros_like(self.fold.fit), np.zeros_like(self.fold.fit))
        fold.fit[rows[~judge]] = True
        fold.judge[rows[judge]] = True
        return replace(self, fold=fold)

    def scatter(self, candidates: NDArray[np.int64] | list[int], weights: Floats | float) -> Floats:
        """[M] the weights of some, 0 for the others."""
        every = np.zeros(len(self.candidates))
        every[candidates] = weights
        return every

    def outputs(self, combination: Combination, rows: Mask) -> Floats:
        """The weighted average, or the linear model, on some of the rows: [n] or [n, C]."""
        weights, intercept = weights_and_intercept(combination)
        members = np.flatnonzero(weights)
        predictions = [self._part(m, rows) for m in members.tolist()]
        return weighted(self.task, predictions, weights[members], intercept, self.averaged)

    def _part(self, m: int, rows: Mask) -> Floats:
        """A candidate's predictions on some rows; the fold's are asked for again and again."""
        if rows is not self.fold.fit and rows is not self.fold.judge:
            return np.asarray(self.predictions[m][rows])
        key = m, rows is self.fold.fit
        if key not in self._parts:
            self._parts[key] = self.predictions[m][rows]
        return self._parts[key]

    @cached_property
    def _parts(self) -> dict[tuple[int, bool], Floats]:
        """Of a candidate, on the rows that choose or (False) on those that judge."""
        return {}

    def score(self, combination: Combination, rows: Mask) -> float:
        """The task's metric on some of the rows [N]."""
        return task_metric(self.task, self.outputs(combination, rows), self.labels[rows])[0]


View = Mapping[str, TaskView]
"""What a fold sees of each task."""


def views_of(pool: Pool, averaged: Averaged) -> tuple[View, ...]:
    """[1 + H] a pool as all of dev sees it, then as each half does."""
    tasks = {name: _views_of_task(task, averaged) for name, task in pool.tasks.items()}
    return tuple(
        dict(zip(tasks, views, strict=True)) for views in zip(*tasks.values(), strict=True)
    )


def overall_score(view: View, combinations: Mapping[str, Combination]) -> float:
    """Overall on the rows that choose."""
    scores = {
        name: view[name].score(combination, view[name].fold.fit)
        for name, combination in combinations.items()
    }
    return overall(scores, {name: of_task.task for name, of_task in view.items()})


def _views_of_task(pool: TaskPool, averaged: Averaged) -> list[TaskView]:
    """Standardised scores are so by each fold's own rows; all else is the same for every fold."""
    is_fitted = averaged is Averaged.STANDARDISED and pool.task.kind.output is Output.SCORE
    views: list[TaskView] = []
    for fold, choosable in zip(folds(pool.ids), pool.choosable, strict=True):
        if is_fitted or not views:
            transforms = tuple(
                Transform.fit(pool.task, averaged, outputs[fold.fit], pool.labels[fold.fit])
                for outputs in pool.outputs
            )
            pairs = zip(transforms, pool.outputs, strict=True)
            predictions = np.stack([one.apply(pool.task, outputs) for one, outputs in pairs])
        views.append(
            TaskView(pool, averaged, fold, np.flatnonzero(choosable), transforms, predictions)
        )
    return views
