"""Conversion of labels to numbers: classes by name or number, scores, sets as bit masks.

Legend: n examples, C labels of a set.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlflow_setup.text import NUM_SHOWN, did_you_mean
from trainable.config.tasks import Output, Task


def label_value(task: Task, text: str) -> tuple[float, str]:
    """The label of a cell, encoded as in `Examples`, and the problem with it, "" if there is none.
    The problem's text follows the cell in messages."""
    if task.kind.output is Output.LABELS:
        total = 0.0
        for name in dict.fromkeys(part.strip() for part in text.split(task.label_separator)):
            number, why = _class(task, name) if name or task.label_separator in text else (0, "")
            if why:
                return math.nan, why
            total += 2.0**number if name else 0.0
        return total, ""
    if task.kind.has_integer_labels:
        number, why = _class(task, text)
        return (math.nan if why else float(number)), why
    value = number_of(text)
    if task.min_score <= value <= task.max_score:
        return value, ""
    return math.nan, f"not a score in {task.min_score:g}..{task.max_score:g}"


def _class(task: Task, text: str) -> tuple[int, str]:
    """The class of a cell with its name or number, and the problem with it, or ""."""
    if task.labels:
        if text in task.labels:
            return task.labels.index(text), ""
        names = ", ".join(task.labels[:NUM_SHOWN])
        return 0, f"not one of the labels {names}{did_you_mean(text, task.labels)}"
    value = number_of(text)
    if value.is_integer() and 0 <= value < task.num_classes:
        return int(value), ""
    return 0, f"not a class in 0..{task.num_classes - 1}"


def number_of(text: str) -> float:
    """The number in a cell, else NaN. Stricter than float(), which accepts 1_0 and all digits."""
    try:
        return float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return math.nan


def label_sets(labels: NDArray[np.floating[Any]], num_labels: int) -> NDArray[np.bool_]:
    """Membership [n, C] of sets of labels [n], which are numbers with bit c for label c."""
    bits = labels.astype(np.int64)[:, None] >> np.arange(num_labels)
    return np.asarray(bits & 1, np.bool_)


def as_numbers(sets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The inverse of `label_sets`: [n, C] -> [n]."""
    return np.asarray(sets @ 2.0 ** np.arange(sets.shape[1]), np.float64)
