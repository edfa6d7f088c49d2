"""Multiple negatives ranking equals values computed by hand in float64."""

import math

import pytest
import torch
from torch import nn

from trainable.losses.ranking import positive_ranking, ranking, weighted_ranking

X = [[1.0, 0.0], [0.6, 0.8], [0.0, 2.0]]
Y = [[0.8, 0.6], [0.0, 1.0], [1.0, 1.0]]


def _by_hand(x: list[list[float]], y: list[list[float]], cosine: bool, scale: float) -> list[float]:
    """-log softmax_j S(x_i, y_j) at j = i, for each i."""
    terms = []
    for i, left in enumerate(x):
        scores = []
        for right in y:
            score = sum(a * b for a, b in zip(left, right, strict=True))
            if cosine:
                score /= math.hypot(*left) * math.hypot(*right)
            scores.append(scale * score)
        terms.append(math.log(sum(math.exp(score) for score in scores)) - scores[i])
    return terms


def _double(values: list[float] | list[list[float]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("similarity", "scale"), [("cosine", 20.0), ("cosine", 1.0), ("dot", 1.0)])
def test_ranking_equals_values_computed_by_hand(similarity: str, scale: float) -> None:
    expected = sum(_by_hand(X, Y, similarity == "cosine", scale)) / 3
    actual = ranking(_double(X), _double(Y), similarity, scale)  # type: ignore[arg-type]
    assert actual.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("max_score", [5.0, 1.0])
def test_weighted_ranking_weights_a_pair_by_exp_of_its_grade(max_score: float) -> None:
    labels = [5.0, 1.0, 0.0]
    total = sum(math.exp(j) for j in range(6))
    terms = _by_hand(X, Y, True, 20.0)
    expected = sum(math.exp(g) / total * t for g, t in zip(labels, terms, strict=True)) / 3
    scaled = _double(labels) * max_score / 5
    actual = weighted_ranking(_double(X), _double(Y), scaled, "cosine", 20.0, max_score=max_score)
    assert actual.item() == pytest.approx(expected, rel=1e-12)
    assert actual.item() > 0


def test_positive_ranking_uses_the_positives_only() -> None:
    x, y = _double(X), _double(Y)
    expected = sum(_by_hand([X[0], X[2]], [Y[0], Y[2]], True, 20.0)) / 2
    labels = torch.tensor([1.0, 0.0, 1.0])
    assert positive_ranking(x, y, labels, "cosine", 20.0).item() == pytest.approx(expected)
    x.requires_grad_()
    none = positive_ranking(x, y, torch.zeros(3), "cosine", 20.0)
    none.backward()
    assert none.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_hard_negatives_are_negatives_of_every_anchor() -> None:
    """Two of the three rows have one."""
    negatives = [[0.5, 0.5], [-1.0, 0.3]]
    expected = sum(_by_hand(X, Y + negatives, False, 1.0)) / 3
    actual = ranking(_double(X), _double(Y), "dot", 1.0, _double(negatives))
    assert actual.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_negatives", [0, 1])
def test_ranking_equals_sentence_transformers(num_negatives: int) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    torch.manual_seed(0)
    sides = [torch.randn(16, 32, dtype=torch.float64) for _ in range(2 + num_negatives)]
    theirs = MultipleNegativesRankingLoss(model=nn.Identity(), scale=20.0)
    expected = theirs.compute_loss_from_embeddings(sides, None)
    ours = ranking(sides[0], sides[1], "cosine", 20.0, sides[2] if num_negatives else None)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_half_precision_embeddings_are_ranked_in_float32(
    similarity: str, dtype: torch.dtype
) -> None:
    x, y = _double(X).to(dtype), _double(Y).to(dtype)
    found = ranking(x, y, similarity, 20.0)  # type: ignore[arg-type]
    assert found.dtype is torch.float32
    expected = ranking(x.double(), y.double(), similarity, 20.0)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
