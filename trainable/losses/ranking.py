"""Multiple negatives ranking: every other pair of the batch is a negative (section 4.4).

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

_NEVER = -1e30
"""The score of a candidate that does not count: finite, or what is left out would be NaN."""


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
        negatives: [any number, Z], ranked beside the y for every x (hard negatives).
    """
    candidates = y if negatives is None else torch.cat([y, negatives])
    return _per_pair(x, candidates, similarity, scale).mean()


def positive_ranking(
    x: Tensor, y: Tensor, labels: Tensor, similarity: Similarity, scale: float
) -> Tensor:
    """Ranking among the pairs of a batch that are labelled 1; 0 when there are none.

    `labels` [K] are 0 or 1. The other pairs are left out, as positives and as negatives. No shape
    depends on the labels, so a GPU is not waited for.
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
    """Ranking with pair i's term times exp(l_i) / sum_{j=0..5} exp(j), mean over the batch.

    For pairs of graded similarity: a pair labelled 5 weighs e^4 times one labelled 1. `labels` [K]
    lie in 0..max_score and are mapped to the paper's 0..5. The printed formula has lost its minus
    sign; this is the positive loss.
    """
    grades = labels * (PAPER_MAX_SCORE / max_score)
    weights = torch.exp(grades) / sum(math.exp(j) for j in range(6))
    return (weights * _per_pair(x, y, similarity, scale)).mean()


def _per_pair(
    x: Tensor, y: Tensor, similarity: Similarity, scale: float, among: Tensor | None = None
) -> Tensor:
    """Each x's loss [K]; its positive is the y of its own row, candidates may be more than K.

    Args:
        among: [candidates], which of them count; an x whose own does not has no meaningful loss.
    """
    x, y = to_float32(x), to_float32(y)
    if similarity == "cosine":
        x, y = normalize(x, dim=-1), normalize(y, dim=-1)
    scores = scale * (x @ y.T)  # [K, candidates]
    if among is not None:
        scores = scores.masked_fill(~among, _NEVER)
    return cross_entropy(scores, torch.arange(len(x), device=x.device), reduction="none")
