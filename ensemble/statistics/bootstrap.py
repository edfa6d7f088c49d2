"""A paired bootstrap over dev rows: every run is scored on the same resampled rows.

Legend: N dev rows, R replicates, P parts of the rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.statistics.arrays import Floats
from ensemble.statistics.effort import SHIPPED
from trainable.config.tasks import Output, Task
from trainable.evaluation.metrics import predicted_labels, task_metric

Counts = NDArray[np.uint8]
"""A row is drawn once in the mean: more often than 255 times does not happen."""

_BLOCK = 100
"""Replicates that are multiplied at a time: their counts become float64 only then."""

_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Gain:
    """The gain of one candidate over another, on the same rows."""

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
    """The gain of one candidate over each of the others: the mean difference of the metric over
    several parts of the rows, and its interval; a row is resampled in all parts alike.

    Args:
        outputs: for each part, the candidate's outputs there; others: each other candidate's.
        labels: [N].
        rows: [N] for each part, which of the rows it has.
    """
    ways = (outputs, *others)
    ours, *theirs = resampled_means(task, ways, labels, rows, num_replicates)
    return [gain_of(ours, other) for other in theirs]


def resampled_means(
    task: Task,
    ways: Sequence[Sequence[Floats]],
    labels: Floats,
    rows: Sequence[NDArray[np.bool_]],
    num_replicates: int,
    seed: int = 0,
) -> Floats:
    """[ways, 1 + R] the metric of several ways to answer, the mean over several parts of the rows:
    of the rows as they are, then of each replicate. A row is resampled in all parts and ways alike.

    Args:
        ways: for each way and part [P], what is put out there.
        labels: [N]; rows: [P] of [N], which of the rows each part has.
        seed: another one for rows of another task.
    """
    scores = []
    for counts in _blocks(num_replicates, len(labels), seed):  # all of them at once are many
        of_parts = [
            _resampled(task, [way[part] for way in ways], labels[mask], counts[:, mask])
            for part, mask in enumerate(rows)
        ]
        scores.append(np.mean(of_parts, axis=0))
    return np.concatenate(scores, axis=1)


def gain_of(ours: Floats, theirs: Floats) -> Gain:
    """The gain of scores [1 + R] over others [1 + R], those of the rows as they are first."""
    differences = ours - theirs
    low, high = np.percentile(differences[1:], _INTERVAL)
    return Gain(float(differences[0]), float(low), float(high))


def overall_of(scores: Mapping[str, Floats], tasks: Mapping[str, Task]) -> Floats:
    """Overall of each task's metric, all [1 + R] or of another shape: the mean over tasks,
    correlations r mapped to (r + 1) / 2. Tasks are resampled by themselves: they have no row in
    common."""
    mapped = [
        (values + 1) / 2 if tasks[name].kind.output is Output.SCORE else values
        for name, values in scores.items()
    ]
    return np.asarray(np.mean(mapped, axis=0))


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
    return np.asarray(_resampled(task, [outputs], labels, counts)[0])


def _resampled(
    task: Task, ways: Sequence[Floats], labels: Floats, counts: Counts | Floats
) -> Floats:
    """[ways, R] of outputs on the same rows."""
    if task.metric == "accuracy":
        is_right = [predicted_labels(task.kind, outputs) == labels for outputs in ways]
        return _means(counts, np.stack(is_right, axis=1)).T
    if task.metric == "pearson":
        return _correlations(np.stack([np.asarray(o, np.float64) for o in ways]), labels, counts)
    rows = np.arange(len(labels))
    scores = []
    for times in counts:
        # of very few rows a replicate may have none: it stands for all of them then
        drawn = np.repeat(rows, times.astype(np.int64)) if times.any() else rows
        scores.append([task_metric(task, outputs[drawn], labels[drawn])[0] for outputs in ways])
    return np.array(scores).T


def _correlations(ways: Floats, labels: Floats, counts: Counts | Floats) -> Floats:
    """[ways, R] of scores [ways, N]; 0 with a constant."""
    x, y = ways - ways.mean(axis=1, keepdims=True), labels - labels.mean()
    moments = _means(counts, np.vstack([x, x * x, x * y, y[None], y[None] ** 2]).T)
    count = len(ways)
    mx, xx, xy = (moments[:, count * k : count * (k + 1)] for k in range(3))  # [R, ways]
    my, yy = moments[:, -2:-1], moments[:, -1:]
    norm = np.sqrt(np.maximum(xx - mx * mx, 0) * np.maximum(yy - my * my, 0))
    correlations: Floats = np.zeros_like(norm)
    np.divide(xy - mx * my, norm, out=correlations, where=norm > 0)
    return correlations.T


def _means(counts: Counts | Floats, values: Floats | NDArray[np.bool_]) -> Floats:
    """Weighted means of the columns of `values` [N, k]: [R, k]."""
    means = []
    for start in range(0, len(counts), _BLOCK):
        block = counts[start : start + _BLOCK].astype(np.float64)
        means.append(block @ values / np.maximum(block.sum(axis=1), 1)[:, None])
    return np.vstack(means)
