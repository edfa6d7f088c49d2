"""Heads fitted by scikit-learn on a frozen encoder's embeddings: the baselines of a sweep.

Legend: N rows, H hidden size, C labels of a set.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainable.config.tasks import Kind, Output
from trainable.model.heads import ConstantHead, LinearHead, LinearPairHead

_MAX_ITERATIONS = 1000


def fit_head(head: nn.Module, kind: Kind, sides: Tensor, labels: NDArray[np.float64]) -> None:
    """Fit a linear or constant head to the training rows.

    Linear heads: logistic regression for classes and paraphrases, one per label for sets of labels;
    ridge regression for scores; always with scikit-learn's default penalty of 1. Constant heads:
    the log-odds of the class frequencies, or the mean score.

    Args:
        sides: embeddings [1 or 2, N, H] of the rows' sentences.
        labels: [N], or 0 and 1 for each label of a set [N, C].
    """
    if isinstance(head, ConstantHead):
        _set(head.bias, _constant(kind, labels, len(head.bias)))
        return
    assert isinstance(head, LinearHead | LinearPairHead)
    features = head.features(tuple(sides)).numpy()
    if kind.output is Output.SCORE:
        weight, bias = _ridge(head, features, labels)
    elif kind.output is Output.LABELS:
        fitted = [_logistic(features, column, 1) for column in labels.T]
        weight, bias = (np.concatenate(part) for part in zip(*fitted, strict=True))
    else:
        weight, bias = _logistic(features, labels, len(head.out.bias))
    _set(head.out.weight, weight)
    _set(head.out.bias, bias)


def _ridge(
    head: LinearHead | LinearPairHead, features: NDArray[np.float32], labels: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight [1, H] and bias [1] of a ridge regression."""
    from sklearn.linear_model import Ridge  # slow to import, and only needed in this stage

    scale = getattr(head, "scale", None)
    if scale is not None:
        labels = (labels - scale.middle) / scale.width
    ridge = Ridge().fit(features, labels)
    return ridge.coef_[None], np.atleast_1d(ridge.intercept_)


def _logistic(
    features: NDArray[np.float32], labels: NDArray[np.float64], num_outputs: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight and bias of a logistic regression: [C, H] and [C] for classes, [1, H] and [1] for 0
    and 1."""
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(labels)
    if len(classes) < 2:
        shape = (num_outputs, features.shape[1])
        return np.zeros(shape), _log_odds(labels, num_outputs)
    logistic = LogisticRegression(max_iter=_MAX_ITERATIONS).fit(features, labels)
    weight, bias = logistic.coef_, logistic.intercept_
    if num_outputs > 1:
        weight, bias = _expand(weight, bias, classes.astype(int), num_outputs)
    return weight, bias


def _constant(kind: Kind, labels: NDArray[np.float64], num_outputs: int) -> NDArray[np.float64]:
    """The constant outputs [C] or [1] that fit all rows best."""
    if kind.output is Output.SCORE:
        return np.array([labels.mean()])
    if kind.output is Output.LABELS:
        return np.concatenate([_log_odds(column, 1) for column in labels.T])
    return _log_odds(labels, num_outputs)


def _log_odds(labels: NDArray[np.float64], num_outputs: int) -> NDArray[np.float64]:
    """Log-probabilities of the classes [C], or log-odds of 1 against 0 [1], with add-one
    smoothing."""
    counts = np.bincount(labels.astype(int), minlength=max(2, num_outputs)) + 1.0
    logits: NDArray[np.float64] = np.log(counts / counts.sum())
    return logits if num_outputs > 1 else logits[1:] - logits[:1]


def _expand(
    weight: NDArray[np.float64], bias: NDArray[np.float64], classes: NDArray[np.int64], num: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight [C, H] and bias [C] for all classes: scikit-learn has a single logit for two classes,
    and none for a class without rows."""
    if len(classes) == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    all_weights = np.zeros((num, weight.shape[1]))
    all_biases = np.full(num, bias.min() - 10.0)  # low, for classes without training rows
    all_weights[classes], all_biases[classes] = weight, bias
    return all_weights, all_biases


def _set(parameter: Tensor, value: NDArray[np.float64]) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.asarray(value)))
