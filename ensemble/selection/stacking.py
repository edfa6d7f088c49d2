"""Linear models of the candidates' log-odds or scores: weights of any sign, and an intercept.

The paper's regression has one weight for each model and no intercept; stacking adds one, for each
class its own. How much weights are shrunk (L2) is chosen by folds of the rows.

Legend: M candidates, N rows, C classes (two of a paraphrase).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ensemble.selection.combine import log_odds
from ensemble.selection.loss_scorers import by_label
from ensemble.selection.sample import FitData, Linear
from ensemble.statistics.arrays import Floats
from trainable.config.tasks import Output

RIDGES = (1.0, 0.1, 0.01, 0.001)
"""Tried, on predictions of unit mean square; the strongest wins a tie."""
_NUM_FOLDS, _MAX_STEPS = 3, 60
_SMALLEST = 0.005
"""Weights below this share of the largest are dropped: they cost an encoder and change little."""


def stacking(sample: FitData) -> Linear:
    """L2 logistic regression with an intercept, ridge regression for scores."""
    return _ridge(sample) if sample.task.kind.output is Output.SCORE else _logistic(sample, True)


def paper_regression(sample: FitData) -> Linear:
    """One weight for each model, on the logits; scores are averaged, equally, as in the paper."""
    if sample.task.kind.output is Output.SCORE:
        return Linear(sample.is_plain / sample.is_plain.sum(), np.zeros(1))
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
    if is_binary:  # one for each label of a set: the same
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
    """[M + C] one weight for each model's logits, then the intercept of each class.

    Args:
        x: [M, N, C].
        free: [C] 1 where a class has an intercept, 0 where it is 0.
        least: of a weight; None: none.
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
    """Mean log-loss with its ridge, and the slope."""
    weights, rows = parameters[: len(x)], np.arange(len(labels))
    logits = np.tensordot(weights, x, 1) + parameters[len(x) :] * free  # [N, C]
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    value = -float(np.log(np.maximum(p[rows, labels], 1e-300)).mean())
    p[rows, labels] -= 1
    slope = np.r_[np.tensordot(x, p, 2) / len(rows) + ridge * weights, p.mean(axis=0) * free]
    return value + ridge * float(weights @ weights) / 2, slope


def _ridge(sample: FitData) -> Linear:
    def fit(x: Floats, y: Floats, ridge: float) -> tuple[Floats, float]:
        middle = x.mean(axis=1, keepdims=True)
        centred = x - middle
        gram = centred @ centred.T / len(y) + ridge * scale**2 * np.eye(len(x))
        weights = np.linalg.solve(gram, centred @ (y - y.mean()) / len(y))
        return weights, float(y.mean() - weights @ middle[:, 0])

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
    """Masks of the rows held out; none where there are too few."""
    fold = np.random.default_rng(num_rows).permutation(num_rows) % _NUM_FOLDS
    return [fold == number for number in range(_NUM_FOLDS)] if num_rows > _NUM_FOLDS else []


def _pruned(weights: Floats) -> Floats:
    """Without the smallest; rounded, so that no machine's arithmetic shows. One is left."""
    size = np.abs(weights)
    if not size.any():
        return np.full(len(weights), 1e-9)
    kept = np.where(size >= _SMALLEST * size.max(), weights, 0.0)
    return np.asarray(np.round(kept / size.max(), 9) * size.max())
