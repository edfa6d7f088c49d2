"""Linear models of the candidates' log-odds or scores: weights of any sign, and an intercept.

The paper's regression has one weight for each model and no intercept; stacking adds an intercept
for each class. The L2 penalty is chosen by cross-validation.

Legend: M candidates, N rows, C classes (two of a binary task).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ensemble.selection.combine import log_odds
from ensemble.selection.loss_scorers import by_label
from ensemble.selection.sample import MIN_SHARE, FitData, Linear
from ensemble.statistics.arrays import Floats
from trainable.config.tasks import Output

RIDGES = (1.0, 0.1, 0.01, 0.001)
"""L2 penalties compared, for predictions scaled to a mean square of 1; the strongest wins a tie."""
_NUM_FOLDS, _MAX_STEPS = 3, 60


def stacking(sample: FitData) -> Linear:
    """Return an L2-penalised logistic regression with an intercept; ridge regression for scores."""
    return _ridge(sample) if sample.task.kind.output is Output.SCORE else _logistic(sample, True)


def paper_regression(sample: FitData) -> Linear:
    """Return the paper's regression: one weight for each model's logits, no intercept; scores are
    averaged with equal weights."""
    if sample.task.kind.output is Output.SCORE:
        return Linear(sample.in_simple / sample.in_simple.sum(), np.zeros(1))
    return _logistic(sample, False)


def _logistic(sample: FitData, has_intercept: bool) -> Linear:
    x = log_odds(sample.task, sample.predictions, sample.averaged)
    is_binary, labels = sample.task.kind.output is not Output.CLASSES, sample.labels
    if sample.task.kind.output is Output.LABELS:
        x, labels = by_label(x, labels)
    if is_binary:
        x = np.stack([-x / 2, x / 2], axis=2)
    x = x - x.mean(axis=2, keepdims=True)
    scale = max(float(np.sqrt(np.mean(x * x))), 1e-12)
    x, truth = x / scale, labels.astype(np.int64)  # [M, N, C]
    free = np.full(x.shape[2], float(has_intercept))
    losses = np.zeros(len(RIDGES))
    for held_out in _folds(len(truth)):
        start = None
        for r, ridge in enumerate(RIDGES):
            start = fit_softmax(x[:, ~held_out], truth[~held_out], ridge, free, start)
            losses[r] += _loss(start, x[:, held_out], truth[held_out], 0.0, free)[0]
    parameters = fit_softmax(x, truth, RIDGES[int(np.argmin(losses))], free)
    weights, intercept = parameters[: len(x)] / scale, parameters[len(x) :] * free
    if is_binary:  # the labels of a multi-label task share one intercept
        intercept = np.repeat(intercept[1:] - intercept[:1], sample.task.num_outputs)
    return Linear(_pruned(weights), np.round(intercept, 9))


def fit_softmax(
    x: Floats,
    labels: NDArray[np.int64],
    ridge: float,
    free: Floats,
    start: Floats | None = None,
    least: float | None = None,
) -> Floats:
    """Return [M + C] one weight for each model's logits, then the intercept of each class.

    Args:
        x: [M, N, C] logits.
        labels: [N] classes.
        ridge: L2 penalty.
        free: [C] 1 where the intercept is fitted, 0 where it stays 0.
        start: [M + C] initial values; None: equal weights.
        least: lower bound of the weights; None: none.
    """
    first = np.r_[np.full(len(x), 1 / len(x)), np.zeros(len(free))] if start is None else start
    bounds = [(least, None)] * len(x) + [(None, None)] * len(free)
    options = {"maxiter": _MAX_STEPS}
    optimum = minimize(
        _loss, first, (x, labels, ridge, free), "L-BFGS-B", True, bounds=bounds, options=options
    )
    return np.asarray(optimum.x, np.float64)


def _loss(
    parameters: Floats, x: Floats, labels: NDArray[np.int64], ridge: float, free: Floats
) -> tuple[float, Floats]:
    """Return the mean log-loss plus the L2 penalty, and its gradient."""
    weights, rows = parameters[: len(x)], np.arange(len(labels))
    logits = np.tensordot(weights, x, 1) + parameters[len(x) :] * free  # [N, C]
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    value = -float(np.log(np.maximum(p[rows, labels], 1e-300)).mean())
    p[rows, labels] -= 1
    gradient = np.r_[np.tensordot(x, p, 2) / len(rows) + ridge * weights, p.mean(axis=0) * free]
    return value + ridge * float(weights @ weights) / 2, gradient


def _ridge(sample: FitData) -> Linear:
    def fit(x: Floats, y: Floats, ridge: float) -> tuple[Floats, float]:
        mean = x.mean(axis=1, keepdims=True)
        centred = x - mean
        gram = centred @ centred.T / len(y) + ridge * scale**2 * np.eye(len(x))
        weights = np.linalg.solve(gram, centred @ (y - y.mean()) / len(y))
        return weights, float(y.mean() - weights @ mean[:, 0])

    x, y = sample.predictions, sample.labels
    scale = max(float(np.sqrt(np.mean((x - x.mean(axis=1, keepdims=True)) ** 2))), 1e-12)
    losses = np.zeros(len(RIDGES))
    for held_out in _folds(len(y)):
        for r, ridge in enumerate(RIDGES):
            weights, intercept = fit(x[:, ~held_out], y[~held_out], ridge)
            losses[r] += np.mean((weights @ x[:, held_out] + intercept - y[held_out]) ** 2)
    weights, intercept = fit(x, y, RIDGES[int(np.argmin(losses))])
    return Linear(_pruned(weights), np.round([intercept], 9))


def _folds(num_rows: int) -> list[NDArray[np.bool_]]:
    """Return masks of the held-out rows; none where there are too few rows."""
    fold = np.random.default_rng(num_rows).permutation(num_rows) % _NUM_FOLDS
    return [fold == number for number in range(_NUM_FOLDS)] if num_rows > _NUM_FOLDS else []


def _pruned(weights: Floats) -> Floats:
    """Return the weights with the smallest set to 0, rounded, so that they are equal on every
    machine; at least one is not 0."""
    size = np.abs(weights)
    if not size.any():
        return np.full(len(weights), 1e-9)
    kept = np.where(size >= MIN_SHARE * size.max(), weights, 0.0)
    return np.asarray(np.round(kept / size.max(), 9) * size.max())
