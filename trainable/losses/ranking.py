"""Multiple negatives ranking: every other pair of the batch is a negative (section 4.4).

Legend: K pairs, Z width of a task embedding. S(x_i, y_j) is the similarity times the scale.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

Similarity = Literal["cosine", "dot"]

PAPER_MAX_SCORE = 5.0


def ranking(x: Tensor, y: Tensor, similarity: Similarity, scale: float) -> Tensor:
    """-1/K sum_i log softmax_j S(x_i, y_j) at j = i, for K positive pairs x, y [K, Z].

    With cosine and scale 20 this is sentence-transformers' MultipleNegativesRankingLoss.
    """
    return _per_pair(x, y, similarity, scale).mean()


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


def _per_pair(x: Tensor, y: Tensor, similarity: Similarity, scale: float) -> Tensor:
    x, y = x.float(), y.float()
    if similarity == "cosine":
        x, y = normalize(x, dim=-1), normalize(y, dim=-1)
    scores = scale * (x @ y.T)  # [K, K]
    return cross_entropy(scores, torch.arange(len(x), device=x.device), reduction="none")
