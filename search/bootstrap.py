"""A paired bootstrap over dev rows: every run is scored on the same resampled rows.

Legend: N dev rows, R replicates.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainable.metrics import predicted_labels, task_metric
from trainable.tasks import Task

Floats = NDArray[np.float64]

NUM_REPLICATES = 2000
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Difference:
    """To the base row: mean over seeds of the paired differences."""

    value: float
    low: float  # 95 % percentile interval of a paired bootstrap over dev rows
    high: float
    spread: float | None  # standard deviation over seeds of the paired differences
    num_seeds: int

    @property
    def is_clear(self) -> bool:
        """The interval excludes 0, and the seeds' mean is over two standard errors away from it."""
        error = 0.0 if self.spread is None else self.spread / math.sqrt(self.num_seeds)
        return self.low * self.high > 0 and abs(self.value) > 2 * error


def difference_of(values: Floats) -> Difference:
    """Of paired differences [seeds, 1 + R], those of the rows as they are first."""
    means = values.mean(axis=0)
    low, high = np.percentile(means[1:], _INTERVAL)
    spread = None if len(values) < 2 else float(np.std(values[:, 0], ddof=1))
    return Difference(float(means[0]), float(low), float(high), spread, len(values))


class Draws:
    """Resampled dev rows, the same for every run; scores on them, each computed once."""

    def __init__(self, num_replicates: int) -> None:
        self.num_replicates = num_replicates
        self.counts: dict[str, Floats] = {}  # task -> how often each row is drawn, [1 + R, N]
        self.known: dict[tuple[str, str], Floats] = {}

    def scores(self, key: tuple[str, str], task: Task, outputs: Floats, labels: Floats) -> Floats:
        """The metric on the rows as they are, then on each replicate: [1 + R].

        Args:
            key: which run and task it is of.
        """
        if key not in self.known:
            counts = self._counts(key[1], len(labels))
            self.known[key] = resampled_scores(task, outputs, labels, counts)
        return self.known[key]

    def _counts(self, name: str, num_rows: int) -> Floats:
        if name not in self.counts:
            random = np.random.default_rng([len(self.counts), num_rows])
            drawn = random.multinomial(
                num_rows, np.full(num_rows, 1 / num_rows), self.num_replicates
            )
            self.counts[name] = np.vstack([np.ones(num_rows), drawn])
        return self.counts[name]


def resampled_scores(task: Task, outputs: Floats, labels: Floats, counts: Floats) -> Floats:
    """The task's metric where row n counts `counts[r, n]` times, for each r: [R].

    Accuracy and Pearson are products with the counts; other metrics are computed on the repeated
    rows one by one.
    """
    total = counts.sum(axis=1)
    if task.metric == "accuracy":
        is_right = predicted_labels(task.kind, outputs) == labels
        return np.asarray(counts @ is_right / total)
    if task.metric == "pearson":
        x, y = outputs - outputs.mean(), labels - labels.mean()
        moments = counts @ np.stack([x, y, x * x, y * y, x * y], axis=1) / total[:, None]
        mx, my, xx, yy, xy = moments.T
        norm = np.sqrt(np.maximum(xx - mx * mx, 0) * np.maximum(yy - my * my, 0))
        correlations: Floats = np.zeros_like(norm)
        np.divide(xy - mx * my, norm, out=correlations, where=norm > 0)
        return correlations
    rows = np.arange(len(labels))
    scores = []
    for times in counts:
        drawn = np.repeat(rows, times.astype(np.int64))
        scores.append(task_metric(task, outputs[drawn], labels[drawn])[0])
    return np.array(scores)
