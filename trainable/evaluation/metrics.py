"""The metrics of a task, and `overall`, which a search maximises. NumPy only: selection uses it.

Legend: M models, N rows, C classes. Outputs are those of a head: logits [N, C] of classes or of a
set's labels, logits [N] (paraphrase), or scores [N].
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainable.config.tasks import Kind, MetricName, Output, Task
from trainable.data.labels import as_numbers, label_sets

Floats = NDArray[np.floating[Any]]


def predicted_labels(kind: Kind, outputs: Floats) -> NDArray[np.float64]:
    """The predicted labels [N], encoded as in `Examples`: the arg-max class, 1 if the logit is
    above 0, the set of labels whose logit is above 0, or the score."""
    if kind.output is Output.CLASSES:
        return np.asarray(outputs.argmax(axis=1), np.float64)
    if kind.output is Output.BINARY:
        return np.asarray(outputs > 0, np.float64)
    if kind.output is Output.LABELS:
        return as_numbers(outputs > 0)
    return np.asarray(outputs, np.float64)


def task_metric(task: Task, outputs: Floats, labels: Floats) -> tuple[float, bool]:
    """The task's metric of outputs [N, C] or [N] for labels [N], and whether it is defined.

    A correlation with a constant is undefined: it counts as 0.0 and the flag is False.

    Raises:
        ValueError: if the task has no metric or an output is not finite.
    """
    if task.metric is None:
        raise ValueError(f"a {task.kind} task has no metric")
    if not np.isfinite(outputs).all():
        raise ValueError("outputs are not finite")
    if task.kind.output is Output.LABELS and task.metric != "accuracy":
        return _f1_of_sets(task.metric, outputs > 0, label_sets(labels, outputs.shape[1]))
    return _METRICS[task.metric](predicted_labels(task.kind, outputs), labels)


def task_metrics(task: Task, outputs: Floats, labels: Floats) -> NDArray[np.float64]:
    """The metric of each of several models' outputs, [M], from outputs [M, N, C] or [M, N].

    Raises:
        ValueError: as for `task_metric`.
    """
    is_plain = task.metric == "accuracy" and task.kind.output is not Output.LABELS
    if not is_plain and task.metric != "pearson":
        return np.array([task_metric(task, each, labels)[0] for each in outputs])
    if not np.isfinite(outputs).all():
        raise ValueError("outputs are not finite")
    if is_plain:
        is_classes = task.kind.output is Output.CLASSES
        predicted = outputs.argmax(axis=2) if is_classes else outputs > 0
        return np.asarray(np.count_nonzero(predicted == labels, axis=1) / len(labels))
    return _pearsons(outputs, labels)


def why_undefined(labels: Floats) -> str:
    """Why a correlation is undefined: the labels [N] are constant, else the predictions."""
    return f"the {'labels' if np.ptp(labels) == 0 else 'predictions'} are constant"


def overall(scores: Mapping[str, float], tasks: Mapping[str, Task]) -> float:
    """The mean over the tasks with a metric, with correlations r mapped to (r + 1) / 2.

    Comparable only between runs of the same tasks (the paper's section 5.2).
    """
    mapped = [
        (score + 1) / 2 if tasks[name].kind.output is Output.SCORE else score
        for name, score in scores.items()
        if tasks[name].is_evaluated
    ]
    if not mapped:
        raise ValueError("none of the tasks has a metric")
    return float(np.mean(mapped))


def pearson(x: Floats, y: Floats) -> tuple[float, bool]:
    """Pearson's r of x [N] and y [N] in float64, in [-1, 1]; (0.0, False) when one is constant."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0, False
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    if not norm > 0:
        return 0.0, False
    return float(np.clip((x @ y) / norm, -1.0, 1.0)), True


def _pearsons(x: Floats, y: Floats) -> NDArray[np.float64]:
    """`pearson` of each row of x [M, N] with y [N]: [M], with exactly the same results."""
    x, y = np.ascontiguousarray(x, np.float64), np.asarray(y, np.float64)
    scores = np.zeros(len(x))
    if x.shape[1] < 2 or np.ptp(y) == 0:
        return scores
    varies = np.ptp(x, axis=1) > 0
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean()
    squares = np.array([each @ each for each in x])
    products = np.array([each @ y for each in x])
    norm = np.sqrt(squares * (y @ y))
    np.divide(products, norm, out=scores, where=varies & (norm > 0))
    return np.clip(scores, -1.0, 1.0)


def _accuracy(predicted: Floats, labels: Floats) -> tuple[float, bool]:
    return float((predicted == labels).mean()), True


def _macro_f1(predicted: Floats, labels: Floats) -> tuple[float, bool]:
    scores = []
    for label in np.union1d(predicted, labels):
        hits = np.sum((predicted == label) & (labels == label))
        scores.append(2 * hits / (np.sum(predicted == label) + np.sum(labels == label)))
    return float(np.mean(scores)), True


def _f1_of_sets(
    metric: MetricName, predicted: NDArray[np.bool_], truth: NDArray[np.bool_]
) -> tuple[float, bool]:
    """F1 of sets of labels [N, C]: over all labels together (micro), or the mean over labels
    (macro), without those that are neither in the truth nor predicted. Undefined if none is
    left."""
    axis = None if metric == "micro_f1" else 0
    hits = np.atleast_1d((predicted & truth).sum(axis=axis))
    total = np.atleast_1d(predicted.sum(axis=axis) + truth.sum(axis=axis))
    is_there = total > 0
    if not is_there.any():
        return 0.0, False
    return float(np.mean(2 * hits[is_there] / total[is_there])), True


def _spearman(predicted: Floats, labels: Floats) -> tuple[float, bool]:
    return pearson(_ranks(predicted), _ranks(labels))


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values get their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


_METRICS = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "micro_f1": _accuracy,  # equal for single labels; `_f1_of_sets` is for sets
    "pearson": pearson,
    "spearman": _spearman,
}
assert set(_METRICS) == set(MetricName.__args__)  # type: ignore[attr-defined]
