"""Multiple negatives ranking (MNR): the other pairs of the batch are negatives (section 4.4).

Legend: K pairs, Z width of a task embedding. S(x_i, y_j) is the similarity times the scale.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from trainable.runtime.precision import to_float32

Similarity = Literal["cosine", "dot"]

PAPER_MAX_SCORE = 5.0

_MASKED = -1e30
"""Score of a masked candidate; finite, because -inf would give NaN for rows that are masked."""


def ranking(
    x: Tensor,
    y: Tensor,
    similarity: Similarity,
    scale: float,
    negatives: Tensor | None = None,
) -> Tensor:
    """-1/K sum_i log softmax_j S(x_i, y_j) at j = i, for K positive pairs x, y [K, Z].

    With cosine and scale 20 this is sentence-transformers' MultipleNegativesRankingLoss.

    Args:
        negatives: hard negatives [any number, Z], additional candidates for every x.
    """
    candidates = y if negatives is None else torch.cat([y, negatives])
    return _per_pair(x, candidates, similarity, scale).mean()


def positive_ranking(
    x: Tensor, y: Tensor, labels: Tensor, similarity: Similarity, scale: float
) -> Tensor:
    """`ranking` of the pairs that are labelled 1; 0 if there are none.

    Pairs labelled 0 are neither positives nor negatives. No tensor's shape depends on the labels,
    so that a GPU need not be synchronised.

    Args:
        labels: 0 or 1, [K].
    """
    is_positive = labels > 0.5
    per_pair = _per_pair(x, y, similarity, scale, among=is_positive)
    return (per_pair * is_positive).sum() / is_positive.sum().clamp_min(1)


def weighted_ranking(
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    similarity: Similarity,
    scale: float,
    max_score: float = PAPER_MAX_SCORE,
) -> Tensor:
    """`ranking` with the term of pair i weighted by exp(l_i) / sum_{j=0..5} exp(j).

    For pairs of graded similarity: a pair labelled 5 weighs e^4 times as much as one labelled 1.
    The minus sign is missing in the printed formula; this is the positive loss.

    Args:
        labels: scores in 0..max_score, [K], rescaled to the paper's 0..5.
    """
    grades = labels * (PAPER_MAX_SCORE / max_score)
    weights = torch.exp(grades) / sum(math.exp(j) for j in range(6))
    return (weights * _per_pair(x, y, similarity, scale)).mean()


def _per_pair(
    x: Tensor, y: Tensor, similarity: Similarity, scale: float, among: Tensor | None = None
) -> Tensor:
    """The loss [K] of each x, whose positive is the y of the same row.

    Args:
        y: the candidates [at least K, Z].
        among: mask of the candidates that count; the loss of a row whose own candidate is masked
            is meaningless.
    """
    x, y = to_float32(x), to_float32(y)
    if similarity == "cosine":
        x, y = normalize(x, dim=-1), normalize(y, dim=-1)
    scores = scale * (x @ y.T)  # [K, candidates]
    if among is not None:
        scores = scores.masked_fill(~among, _MASKED)
    return cross_entropy(scores, torch.arange(len(x), device=x.device), reduction="none")
