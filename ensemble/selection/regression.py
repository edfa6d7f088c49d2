"""Non-negative regression: learned weights of at least 0 that sum to 1, as of any average.

Legend: M candidates, N rows, C classes.
"""

import math

import numpy as np
from scipy.optimize import minimize, nnls

from ensemble.selection.combine import Averaged
from ensemble.selection.loss_scorers import by_label
from ensemble.selection.sample import FitData, normalise_weights
from ensemble.selection.stacking import fit_softmax
from ensemble.statistics.arrays import Floats
from trainable.config.tasks import Output

_RIDGE = 0.003
"""L2 penalty, for predictions scaled to a mean square of 1."""
_PRIOR = 1.0
"""Strength of the Dirichlet prior towards equal mixture weights: pseudo-rows per row."""
_EM_ROUNDS = 100


def regression(sample: FitData) -> Floats:
    """Return [M] weights: logistic regression on logits, least squares on scores, and for
    probabilities the mixture with the highest posterior, by expectation maximisation."""
    if sample.task.kind.output is Output.CLASSES:
        if sample.averaged is Averaged.LOGITS:
            return _normalised_or_equal(_softmax_weights(sample), sample)
        rows, truth = np.arange(len(sample.labels)), sample.labels.astype(np.int64)
        return _mixture(sample.predictions[:, rows, truth])
    if sample.task.kind.output in (Output.BINARY, Output.LABELS):
        predictions, labels = sample.predictions, sample.labels
        if sample.task.kind.output is Output.LABELS:
            predictions, labels = by_label(predictions, labels)
        signs = np.where(labels > 0, 1.0, -1.0)
        if sample.averaged is Averaged.PROBABILITIES:
            return _mixture(0.5 + predictions * signs)
        return _normalised_or_equal(_logistic(_scaled(predictions), signs), sample)
    x = sample.predictions - sample.predictions.mean(axis=1, keepdims=True)
    return _normalised_or_equal(_least_squares(_scaled(x), sample.labels), sample)


def _normalised_or_equal(weights: Floats, sample: FitData) -> Floats:
    """Return the weights with sum 1; where all are 0, equal weights."""
    return normalise_weights(weights if weights.any() else sample.in_simple.astype(np.float64))


def _scaled(x: Floats) -> Floats:
    """Return the array divided by its root mean square."""
    return np.asarray(x / max(float(np.sqrt(np.mean(x * x))), 1e-12))


def _softmax_weights(sample: FitData) -> Floats:
    x, labels = _scaled(sample.predictions), sample.labels.astype(np.int64)
    return fit_softmax(x, labels, _RIDGE, np.zeros(x.shape[2]), least=0.0)[: len(x)]


def _logistic(x: Floats, signs: Floats) -> Floats:
    """Return argmin over w >= 0 of mean log(1 + exp(-s w.x)) + ridge |w|^2 / 2, signs s = +-1."""
    features = np.ascontiguousarray(x.T)

    def loss(w: Floats) -> tuple[float, Floats]:
        z = signs * (features @ w)
        gradient = -signs / (1 + np.exp(np.minimum(z, 700))) / len(z)  # with respect to w.x
        value = float(np.mean(np.logaddexp(0.0, -z)) + _RIDGE * (w @ w) / 2)
        return value, features.T @ gradient + _RIDGE * w

    start = np.full(len(x), 1 / len(x))
    optimum = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(x))
    return np.asarray(optimum.x, np.float64)


def _least_squares(x: Floats, labels: Floats) -> Floats:
    """Return argmin over w >= 0 of mean (y - w.x)^2 + ridge |w|^2, y centred."""
    y = labels - labels.mean()
    scale = math.sqrt(_RIDGE * len(y))
    rows = np.vstack([x.T, scale * np.eye(len(x))])
    weights, _ = nnls(rows, np.r_[y, np.zeros(len(x))], maxiter=100 * len(x))
    return np.asarray(weights, np.float64)


def _mixture(p: Floats) -> Floats:
    """Return mixture weights [M] for the candidates' probabilities of the true label [M, N], shrunk
    towards equal ones."""
    num_candidates, num_rows = p.shape
    p = np.maximum(p, 1e-6)
    weights = np.full(num_candidates, 1 / num_candidates)
    for _ in range(_EM_ROUNDS):
        responsibilities = weights[:, None] * p
        responsibilities /= responsibilities.sum(axis=0)
        weights = responsibilities.sum(axis=1) + _PRIOR * num_rows / num_candidates
        weights /= weights.sum()
    return normalise_weights(weights)
