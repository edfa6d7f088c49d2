"""A paired bootstrap over dev rows: everything compared is scored on the same resampled rows.

Legend: N dev rows, C classes, R replicates, P parts of the rows, S systems that are compared.
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
"""How often each row is drawn. The mean is 1, so 255 is never exceeded."""

_BLOCK = 100
"""Replicates per matrix product: only these are converted to float64 at a time, to save memory."""

INTERVAL = (2.5, 97.5)
"""Percentiles of the replicates between which a 95 % interval lies."""


@dataclass(frozen=True)
class Gain:
    """The difference in a metric between two systems scored on the same rows."""

    value: float
    low: float  # 95 % percentile interval of a paired bootstrap over the rows
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0

    def describe(self) -> str:
        """Return the gain as text, e.g. `+0.0120 [+0.0031, +0.0214]`."""
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def gain_of_halves(
    task: Task,
    outputs: Sequence[Floats],
    others: Sequence[Sequence[Floats]],
    labels: Floats,
    rows: Sequence[NDArray[np.bool_]],
    num_replicates: int = SHIPPED.num_replicates,
) -> list[Gain]:
    """Return the gain of one system over each of the others, with its interval.

    The gain is the mean over several parts of the rows (for example, halves of dev) of the
    difference in the metric. A replicate draws a row equally often in every part.

    Args:
        outputs: [P] the system's outputs on each part.
        others: the same for each other system.
        labels: [N].
        rows: [P] masks [N] of the rows in each part.
    """
    systems = (outputs, *others)
    ours, *theirs = resampled_means(task, systems, labels, rows, num_replicates)
    return [gain_of(ours, other) for other in theirs]


def resampled_means(
    task: Task,
    systems: Sequence[Sequence[Floats]],
    labels: Floats,
    rows: Sequence[NDArray[np.bool_]],
    num_replicates: int,
    seed: int = 0,
) -> Floats:
    """Return [S, 1 + R] each system's metric, averaged over several parts of the rows.

    Column 0 is the metric on the original rows, the others on the bootstrap replicates. A replicate
    draws a row equally often for every part and system.

    Args:
        systems: [S] of [P] outputs of each system on each part.
        labels: [N].
        rows: [P] masks [N] of the rows in each part.
        seed: use a different one for each task.
    """
    scores = []
    for counts in _blocks(num_replicates, len(labels), seed):  # in blocks, to save memory
        of_parts = [
            _resampled(task, [parts[part] for parts in systems], labels[mask], counts[:, mask])
            for part, mask in enumerate(rows)
        ]
        scores.append(np.mean(of_parts, axis=0))
    return np.concatenate(scores, axis=1)


def gain_of(ours: Floats, theirs: Floats) -> Gain:
    """Return the gain of scores [1 + R] over others [1 + R]; the score on the original rows is
    the first of each."""
    differences = ours - theirs
    low, high = np.percentile(differences[1:], INTERVAL)
    return Gain(float(differences[0]), float(low), float(high))


def overall_of(scores: Mapping[str, Floats], tasks: Mapping[str, Task]) -> Floats:
    """Return the overall score: the mean of the tasks' metrics, with correlations r mapped to
    (r + 1) / 2. All are arrays of one shape, usually [1 + R]. Tasks share no rows, so they are
    resampled independently."""
    mapped = [
        (values + 1) / 2 if tasks[name].kind.output is Output.SCORE else values
        for name, values in scores.items()
    ]
    return np.asarray(np.mean(mapped, axis=0))


class Draws:
    """Bootstrap replicates of dev rows, the same for every run, and a cache of scores on them."""

    def __init__(self, num_replicates: int) -> None:
        self.num_replicates = num_replicates
        self.counts: dict[str, Counts] = {}  # task -> how often each row is drawn, [1 + R, N]
        self.known: dict[tuple[str, str], Floats] = {}

    def scores(self, key: tuple[str, str], task: Task, outputs: Floats, labels: Floats) -> Floats:
        """Return [1 + R] the metric on the original rows, then on each replicate.

        Args:
            key: the run and the task, by which the scores are cached.
            outputs: [N] or [N, C].
            labels: [N].
        """
        if key not in self.known:
            counts = self.counts_of(key[1], len(labels))
            self.known[key] = resampled_scores(task, outputs, labels, counts)
        return self.known[key]

    def counts_of(self, name: str, num_rows: int) -> Counts:
        """Return [1 + R, N] how often each row of a task is drawn: once, then in each replicate."""
        if name not in self.counts:
            blocks = _blocks(self.num_replicates, num_rows, len(self.counts))
            self.counts[name] = np.vstack(list(blocks))
        return self.counts[name]


def _blocks(num_replicates: int, num_rows: int, seed: int) -> Iterator[Counts]:
    """Yield how often each row is drawn: first ones [1, N], then blocks of replicates [r, N]."""
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
    """Return [R] the task's metric where row n counts `counts[r, n]` times in replicate r.

    Accuracy and Pearson's r are matrix products with the counts; other metrics are computed on the
    repeated rows, one replicate after another.
    """
    return np.asarray(_resampled(task, [outputs], labels, counts)[0])


def _resampled(
    task: Task, systems: Sequence[Floats], labels: Floats, counts: Counts | Floats
) -> Floats:
    """Return [S, R] the metric of several systems' outputs on the same rows."""
    if task.metric == "accuracy":
        is_right = [predicted_labels(task.kind, outputs) == labels for outputs in systems]
        return _means(counts, np.stack(is_right, axis=1)).T
    if task.metric == "pearson":
        return _correlations(np.stack([np.asarray(o, np.float64) for o in systems]), labels, counts)
    rows = np.arange(len(labels))
    scores = []
    for times in counts:
        # A part of very few rows may have none in a replicate: then all of them are scored.
        drawn = np.repeat(rows, times.astype(np.int64)) if times.any() else rows
        scores.append([task_metric(task, outputs[drawn], labels[drawn])[0] for outputs in systems])
    return np.array(scores).T


def _correlations(systems: Floats, labels: Floats, counts: Counts | Floats) -> Floats:
    """Return [S, R] Pearson's r of scores [S, N]; 0 where a side is constant."""
    x, y = systems - systems.mean(axis=1, keepdims=True), labels - labels.mean()
    moments = _means(counts, np.vstack([x, x * x, x * y, y[None], y[None] ** 2]).T)
    count = len(systems)
    mx, xx, xy = (moments[:, count * k : count * (k + 1)] for k in range(3))  # [R, S]
    my, yy = moments[:, -2:-1], moments[:, -1:]
    norm = np.sqrt(np.maximum(xx - mx * mx, 0) * np.maximum(yy - my * my, 0))
    correlations: Floats = np.zeros_like(norm)
    np.divide(xy - mx * my, norm, out=correlations, where=norm > 0)
    return correlations.T


def _means(counts: Counts | Floats, values: Floats | NDArray[np.bool_]) -> Floats:
    """Return [R, k] the means of the columns of `values` [N, k], weighted by the counts."""
    means = []
    for start in range(0, len(counts), _BLOCK):
        block = counts[start : start + _BLOCK].astype(np.float64)
        means.append(block @ values / np.maximum(block.sum(axis=1), 1)[:, None])
    return np.vstack(means)
