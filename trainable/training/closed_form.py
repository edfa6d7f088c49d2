"""Heads that are solved for instead of trained: scikit-learn on the frozen encoder's embeddings.

What anybody would try first, and what a sweep is measured against. Legend: N rows, H hidden size.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor, nn

from trainable.config.tasks import Kind
from trainable.model.heads import ConstantHead, pair_features

_MAX_ITERATIONS = 1000


def fit_head(head: nn.Module, kind: Kind, sides: Tensor, labels: NDArray[np.float64]) -> None:
    """Give a linear or constant head the weights that fit the training rows best.

    Classes and paraphrases by logistic regression, scores by ridge regression, both with
    scikit-learn's penalty of 1; constant outputs are the classes' frequencies, or the mean score.

    Args:
        sides: embeddings [1 or 2, N, H] of the rows' sentences.
        labels: [N]
    """
    if isinstance(head, ConstantHead):
        _set(head.bias, _constant(kind, labels, len(head.bias)))
        return
    out = head.out
    assert isinstance(out, nn.Linear)
    features = (sides[0] if kind is Kind.CLASSIFICATION else pair_features(*sides)).numpy()
    if kind is Kind.SIMILARITY:
        ridge = Ridge().fit(features, labels)
        weight, bias = ridge.coef_[None], np.atleast_1d(ridge.intercept_)
    elif len(classes := np.unique(labels)) < 2:
        weight, bias = np.zeros(out.weight.shape), _constant(kind, labels, len(out.bias))
    else:
        logistic = LogisticRegression(max_iter=_MAX_ITERATIONS).fit(features, labels)
        weight, bias = logistic.coef_, logistic.intercept_
        if kind is Kind.CLASSIFICATION:
            weight, bias = _of_all_classes(weight, bias, classes.astype(int), len(out.bias))
    _set(out.weight, weight)
    _set(out.bias, bias)


def _constant(kind: Kind, labels: NDArray[np.float64], num_outputs: int) -> NDArray[np.float64]:
    """The outputs [C] or [1] that fit all rows best, each class counted once more than it is."""
    if kind is Kind.SIMILARITY:
        return np.array([labels.mean()])
    counts = np.bincount(labels.astype(int), minlength=max(2, num_outputs)) + 1.0
    logits: NDArray[np.float64] = np.log(counts / counts.sum())
    return logits if kind is Kind.CLASSIFICATION else logits[1:] - logits[:1]


def _of_all_classes(
    weight: NDArray[np.float64], bias: NDArray[np.float64], classes: NDArray[np.int64], num: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[C, H] and [C]: two classes have one logit in scikit-learn, and one without a row none."""
    if len(classes) == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    whole = np.zeros((num, weight.shape[1]))
    offsets = np.full(num, bias.min() - 10.0)  # a class that no training row has
    whole[classes], offsets[classes] = weight, bias
    return whole, offsets


def _set(parameter: Tensor, value: NDArray[np.float64]) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.asarray(value)))
