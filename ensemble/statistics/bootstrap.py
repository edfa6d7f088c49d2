"""A paired bootstrap over dev rows: every run is scored on the same resampled rows.

Legend: N dev rows, R replicates.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.statistics.effort import SHIPPED
from trainable.config.tasks import Kind, Task
from trainable.evaluation.metrics import predicted_labels, task_metric

Floats = NDArray[np.float64]
Counts = NDArray[np.uint8]
"""A row is drawn once in the mean: more often than 255 times does not happen."""

_BLOCK = 100
"""Replicates that are multiplied at a time: their counts become float64 only then."""

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


@dataclass(frozen=True)
class Gain:
    """Of one way to answer over another, on the same rows."""

    value: float
    low: float  # 95 % percentile interval of a paired bootstrap over the rows
    high: float

    @property
    def is_clear(self) -> bool:
        """The interval lies above 0."""
        return self.low > 0

    def describe(self) -> str:
        """`+0.0120 [+0.0031, +0.0214]`."""
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def gain_of_halves(
    task: Task,
    outputs: Sequence[Floats],
    others: Sequence[Sequence[Floats]],
    labels: Floats,
    rows: Sequence[NDArray[np.bool_]],
    num_replicates: int = SHIPPED.num_replicates,
) -> list[Gain]:
    """What one way to answer is worth beyond each of the others: the mean difference of the metric
    over several parts of the rows, and its interval; a row is resampled in all parts alike.

    Args:
        outputs: for each part, what it puts out there; others: the same for each other way.
        labels: [N].
        rows: [N] for each part, which of the rows it has.
    """
    ways, scores = (outputs, *others), []
    for counts in _blocks(num_replicates, len(labels), 0):  # all of them at once are many
        of_parts = [
            [
                resampled_scores(task, values, labels[part], counts[:, part])
                for values, part in zip(way, rows, strict=True)
            ]
            for way in ways
        ]
        scores.append(np.mean(of_parts, axis=1))
    ours, *theirs = np.concatenate(scores, axis=1)  # [1 + R] each
    gains = []
    for other in theirs:
        differences = ours - other
        low, high = np.percentile(differences[1:], _INTERVAL)
        gains.append(Gain(float(differences[0]), float(low), float(high)))
    return gains


def overall_gain(gains: Mapping[str, Gain], tasks: Mapping[str, Task]) -> Gain:
    """Of overall, the mean over tasks (half of a correlation's gain counts): the tasks' rows have
    nothing in common, so that the squares of the intervals' sides add up."""
    share = {n: (0.5 if tasks[n].kind is Kind.SIMILARITY else 1.0) / len(gains) for n in gains}
    value = sum(share[name] * gain.value for name, gain in gains.items())
    below = math.hypot(*(share[n] * (gain.value - gain.low) for n, gain in gains.items()))
    above = math.hypot(*(share[n] * (gain.high - gain.value) for n, gain in gains.items()))
    return Gain(value, value - below, value + above)


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
        self.counts: dict[str, Counts] = {}  # task -> how often each row is drawn, [1 + R, N]
        self.known: dict[tuple[str, str], Floats] = {}

    def scores(self, key: tuple[str, str], task: Task, outputs: Floats, labels: Floats) -> Floats:
        """The metric on the rows as they are, then on each replicate: [1 + R].

        Args:
            key: which run and task it is of.
        """
        if key not in self.known:
            counts = self.counts_of(key[1], len(labels))
            self.known[key] = resampled_scores(task, outputs, labels, counts)
        return self.known[key]

    def counts_of(self, name: str, num_rows: int) -> Counts:
        """How often each row of a task is drawn: once, then in each replicate, [1 + R, N]."""
        if name not in self.counts:
            blocks = _blocks(self.num_replicates, num_rows, len(self.counts))
            self.counts[name] = np.vstack(list(blocks))
        return self.counts[name]


def _blocks(num_replicates: int, num_rows: int, seed: int) -> Iterator[Counts]:
    """How often each row is drawn: once, then in some replicates after the others, [r, N] each."""
    yield np.ones((1, num_rows), np.uint8)
    random = np.random.default_rng([seed, num_rows])
    for start in range(0, num_replicates, _BLOCK):
        counts = np.empty((min(_BLOCK, num_replicates - start), num_rows), np.uint8)
        for row in counts:
            row[:] = np.bincount(random.integers(num_rows, size=num_rows), minlength=num_rows)
        yield counts


def resampled_scores(
    task: Task, outputs: Floats, labels: Floats, counts: Counts | Floats
) -> Floats:
    """The task's metric where row n counts `counts[r, n]` times, for each r: [R].

    Accuracy and Pearson are products with the counts; other metrics are computed on the repeated
    rows one by one.
    """
    if task.metric == "accuracy":
        is_right = predicted_labels(task.kind, outputs) == labels
        return _means(counts, is_right[:, None])[:, 0]
    if task.metric == "pearson":
        x, y = outputs - outputs.mean(), labels - labels.mean()
        moments = _means(counts, np.stack([x, y, x * x, y * y, x * y], axis=1))
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


def _means(counts: Counts | Floats, values: Floats | NDArray[np.bool_]) -> Floats:
    """Weighted means of the columns of `values` [N, k]: [R, k]."""
    means = []
    for start in range(0, len(counts), _BLOCK):
        block = counts[start : start + _BLOCK].astype(np.float64)
        means.append(block @ values / np.maximum(block.sum(axis=1), 1)[:, None])
    return np.vstack(means)
