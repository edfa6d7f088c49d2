"""A random pool, and the results of selection rules on it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ensemble.selection.combine import Averaged, Transform
from ensemble.selection.rules import RULES, Rule
from ensemble.selection.sample import (
    Combination,
    deduplicated,
    scatter,
    weights_and_intercept,
)
from trainable.config.tasks import PAPER_TASKS, Task

Floats = NDArray[np.float64]


TASKS = ("sentiment", "paraphrase", "similarity")


NUM_ROWS = 120


def pool(
    name: str,
    num: int = 6,
    seed: int = 0,
    noise: float = 1.5,
    averaged: Averaged = Averaged.PAPER,
) -> tuple[Floats, Floats]:
    """Predictions of `num` candidates of decreasing accuracy, and labels."""
    draw, task = np.random.default_rng(seed), PAPER_TASKS[name]
    if name == "sentiment":
        labels = draw.integers(0, 5, NUM_ROWS).astype(np.float64)
        clean = np.eye(5)[labels.astype(int)] * 2
    elif name == "paraphrase":
        labels = draw.integers(0, 2, NUM_ROWS).astype(np.float64)
        clean = 2 * labels - 1
    else:
        labels = draw.uniform(0, 5, NUM_ROWS).round(1)
        clean = labels
    outputs = [clean + draw.normal(0, noise + 0.2 * m, clean.shape) for m in range(num)]
    transforms = [Transform.fit(task, averaged, given, labels) for given in outputs]
    predictions = [t.apply(task, given) for t, given in zip(transforms, outputs, strict=True)]
    return np.stack(predictions), labels


def apply(
    rule: Rule,
    task: Task,
    predictions: Floats,
    labels: Floats,
    order: Sequence[object],
    in_simple: Sequence[bool] | None = None,
) -> Combination:
    """The result of a rule for candidates in the given order."""
    kept, sample = deduplicated(task, predictions, labels, order, in_simple)
    return scatter(rule(sample), kept, len(predictions))


def weights_of(
    rule: str, name: str, predictions: Floats, labels: Floats, **given: object
) -> Floats:
    order = given.pop("order", list(range(len(predictions))))
    return weights_and_intercept(
        apply(RULES[rule], PAPER_TASKS[name], predictions, labels, order, **given)
    )[0]  # type: ignore[arg-type]
