"""A task's candidates and their dev predictions in one fold.

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
    """A task in one fold: the candidates that can be chosen, and all candidates' predictions."""

    pool: TaskPool
    averaged: Averaged
    fold: Fold
    choosable: NDArray[np.int64]  # indices of the candidates that can be chosen
    transforms: tuple[Transform, ...]  # [M]
    predictions: Floats  # [M, N] or [M, N, C]

    @property
    def task(self) -> Task:
        return self.pool.task

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """[M] all candidates."""
        return self.pool.candidates

    @property
    def labels(self) -> Floats:
        """[N] the labels."""
        return self.pool.labels

    @property
    def index(self) -> dict[Candidate, int]:
        """The index of each candidate in `candidates`."""
        return self.pool.index

    @property
    def ids(self) -> list[str]:
        """The ids of the fold's fit rows."""
        return [self.pool.ids[n] for n in np.flatnonzero(self.fold.fit)]

    @cached_property
    def singles(self) -> Floats:
        """[M] each candidate's metric on the fit rows; -inf where it cannot be chosen."""
        scores = np.full(len(self.candidates), -np.inf)
        fit = self.fold.fit
        choosable = self.predictions[np.ix_(self.choosable, np.flatnonzero(fit))]
        scores[self.choosable] = task_metrics(self.task, choosable, self.labels[fit])
        return scores

    def among(self, candidates: Collection[Candidate]) -> "TaskView":
        """Return the view in which only these candidates can be chosen."""
        some = [m for m in self.choosable if self.candidates[m] in candidates]
        return replace(self, choosable=np.array(some, np.int64))

    def within(self, judge: Mask) -> "TaskView":
        """Return the view of an inner fold: of the n fit rows, those in the mask [n] are held out
        and the others remain fit rows."""
        rows = np.flatnonzero(self.fold.fit)
        fold = Fold(np.zeros_like(self.fold.fit), np.zeros_like(self.fold.fit))
        fold.fit[rows[~judge]] = True
        fold.judge[rows[judge]] = True
        return replace(self, fold=fold)

    def scatter(self, candidates: NDArray[np.int64] | list[int], weights: Floats | float) -> Floats:
        """Return [M] the weights of some candidates, 0 for the others."""
        every = np.zeros(len(self.candidates))
        every[candidates] = weights
        return every

    def outputs(self, combination: Combination, rows: Mask) -> Floats:
        """Return the combined predictions on the n rows of a mask [N]: [n] or [n, C]."""
        weights, intercept = weights_and_intercept(combination)
        members = np.flatnonzero(weights)
        predictions = [self._predictions_on(m, rows) for m in members.tolist()]
        return weighted(self.task, predictions, weights[members], intercept, self.averaged)

    def _predictions_on(self, m: int, rows: Mask) -> Floats:
        """Return a candidate's predictions on some rows; cached for the fold's own masks, which are
        used often."""
        if rows is not self.fold.fit and rows is not self.fold.judge:
            return np.asarray(self.predictions[m][rows])
        key = m, rows is self.fold.fit
        if key not in self._cached:
            self._cached[key] = self.predictions[m][rows]
        return self._cached[key]

    @cached_property
    def _cached(self) -> dict[tuple[int, bool], Floats]:
        """(candidate, whether fit rows or judge rows) -> predictions."""
        return {}

    def score(self, combination: Combination, rows: Mask) -> float:
        """Return the task's metric on the rows of a mask [N]."""
        return task_metric(self.task, self.outputs(combination, rows), self.labels[rows])[0]


View = Mapping[str, TaskView]
"""Task -> its view in one fold."""


def views_of(pool: Pool, averaged: Averaged) -> tuple[View, ...]:
    """Return [1 + H] the views of a pool: on all of dev, then on each half."""
    tasks = {name: _views_of_task(task, averaged) for name, task in pool.tasks.items()}
    return tuple(
        dict(zip(tasks, views, strict=True)) for views in zip(*tasks.values(), strict=True)
    )


def overall_score(view: View, combinations: Mapping[str, Combination]) -> float:
    """Return the overall score on the fit rows."""
    scores = {
        name: view[name].score(combination, view[name].fold.fit)
        for name, combination in combinations.items()
    }
    return overall(scores, {name: of_task.task for name, of_task in view.items()})


def _views_of_task(pool: TaskPool, averaged: Averaged) -> list[TaskView]:
    """Return the views of one task. Transforms of standardised scores are fitted on each fold's fit
    rows; all others are the same in every fold."""
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
