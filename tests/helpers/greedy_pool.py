"""A random pool, and a naive greedy selection as a reference."""

from typing import Any

import numpy as np
import pytest

from ensemble.selection.combine import to_predictions
from ensemble.selection.scorers import Objective
from trainable.config.tasks import PAPER_TASKS, Kind, Task
from trainable.evaluation.metrics import task_metric

TASKS = {
    "accuracy": PAPER_TASKS["sentiment"].model_copy(update={"num_classes": 3}),
    "macro_f1": PAPER_TASKS["sentiment"].model_copy(
        update={"num_classes": 3, "metric": "macro_f1"}
    ),
    "binary accuracy": PAPER_TASKS["paraphrase"],
    "binary macro_f1": PAPER_TASKS["paraphrase"].model_copy(update={"metric": "macro_f1"}),
    "pearson": PAPER_TASKS["similarity"],
    "spearman": PAPER_TASKS["similarity"].model_copy(update={"metric": "spearman"}),
}


every_metric = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())


def make_pool(
    task: Task, num_candidates: int, num_rows: int, seed: int, decimals: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Random predictions [M, N(, C)] of moderately accurate candidates, and labels [N]."""
    rng = np.random.default_rng(seed)
    if task.kind is Kind.SIMILARITY:
        labels = rng.uniform(0, 5, num_rows).round(1)
        signal = labels
    elif task.kind is Kind.PARAPHRASE:
        labels = rng.integers(0, 2, num_rows).astype(float)
        signal = 2 * labels - 1
    else:
        labels = rng.integers(0, task.num_classes, num_rows).astype(float)
        signal = 2 * np.eye(task.num_classes)[labels.astype(int)]
    noise = rng.uniform(0.5, 3, num_candidates).reshape(-1, *[1] * signal.ndim)
    outputs = signal + noise * rng.standard_normal((num_candidates, *signal.shape))
    outputs = outputs.round(decimals).astype(np.float32)
    return np.stack([to_predictions(task, o) for o in outputs]), labels


def naive(
    task: Task,
    predictions: np.ndarray,
    labels: np.ndarray,
    order: list[Any],
    num_rounds: int,
    objective: Objective = Objective.METRIC,
) -> tuple[list[float], list[float]]:
    """Weights and trajectory by the definition, one candidate after another."""
    total, picks, trajectory = np.zeros_like(predictions[0]), [], []
    candidates = [m for m in range(len(predictions)) if np.ptp(predictions[m], axis=0).max() > 1e-6]
    for _ in range(num_rounds):
        entries = []
        for m in candidates or range(len(predictions)):
            mean = (total + predictions[m]) / (len(picks) + 1)
            score, _ = task_metric(task, total + predictions[m], labels)
            if task.metric == "pearson" and np.std(total + predictions[m]) < 1e-6 * np.std(
                predictions[m]
            ):
                score = 0.0  # they cancel up to rounding errors
            if task.kind is Kind.SIMILARITY:
                loss = float(((mean - labels) ** 2).mean())
            elif task.kind is Kind.PARAPHRASE:
                loss = float(np.logaddexp(0, (1 - 2 * labels) * mean).mean())
            else:
                truth = mean[range(len(labels)), labels.astype(int)]
                loss = float(-np.log(truth.clip(2**-20)).mean())
            score = -loss if objective is Objective.LOSS else score
            entries.append((-round(score, 9), m not in picks, round(loss, 9), order[m], m, score))
        best = min(entries)
        picks.append(best[4])
        trajectory.append(best[5])
        total = total + predictions[best[4]]
    length = 1 + int(np.argmax(np.round(trajectory, 9)))
    return [picks[:length].count(m) / length for m in range(len(predictions))], trajectory
