"""Each loss against values computed by hand in float64."""

import math

import pytest
import torch

from trainable.losses.ranking import ranking, weighted_ranking
from trainable.losses.simcse import simcse
from trainable.losses.task import task_loss
from trainable.tasks import Kind

X = [[1.0, 0.0], [0.6, 0.8], [0.0, 2.0]]
Y = [[0.8, 0.6], [0.0, 1.0], [1.0, 1.0]]


def _by_hand(x: list[list[float]], y: list[list[float]], cosine: bool, scale: float) -> list[float]:
    """-log softmax_j S(x_i, y_j) at j = i, written out."""
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


@pytest.mark.parametrize(("similarity", "scale"), [("cosine", 20.0), ("cosine", 1.0), ("dot", 1.0)])
def test_ranking(similarity: str, scale: float) -> None:
    expected = sum(_by_hand(X, Y, similarity == "cosine", scale)) / 3
    assert ranking(torch.tensor(X), torch.tensor(Y), similarity, scale).item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("max_score", [5.0, 1.0])
def test_weighted_ranking_weighs_a_five_e4_times_a_one(max_score: float) -> None:
    labels = [5.0, 1.0, 0.0]
    total = sum(math.exp(j) for j in range(6))
    terms = _by_hand(X, Y, True, 20.0)
    expected = sum(math.exp(g) / total * t for g, t in zip(labels, terms, strict=True)) / 3
    scaled = torch.tensor(labels) * max_score / 5
    actual = weighted_ranking(
        torch.tensor(X), torch.tensor(Y), scaled, "cosine", 20.0, max_score=max_score
    )
    assert actual.item() == pytest.approx(expected, rel=1e-5)
    assert actual.item() > 0


def test_simcse_is_a_dot_product_or_a_cosine_over_the_temperature() -> None:
    x, y = torch.tensor(X), torch.tensor(Y)
    dot = sum(_by_hand(X, Y, False, 1.0)) / 3
    cosine = sum(_by_hand(X, Y, True, 1 / 0.05)) / 3
    assert simcse(x, y, "dot", 0.05).item() == pytest.approx(dot, rel=1e-5)
    assert simcse(x, y, "cosine", 0.05).item() == pytest.approx(cosine, rel=1e-5)


def test_task_losses() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    expected = [
        math.log(math.exp(2) + 1 + math.exp(-1)) - (-1.0),
        math.log(2 + math.e) - 1.0,
    ]
    actual = task_loss(Kind.CLASSIFICATION, logits, torch.tensor([2.0, 1.0]))
    assert actual.item() == pytest.approx(sum(expected) / 2, rel=1e-6)
    logit = torch.tensor([0.5, -2.0])
    expected = [math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(-2.0))]
    actual = task_loss(Kind.PARAPHRASE, logit, torch.tensor([1.0, 0.0]))
    assert actual.item() == pytest.approx(sum(expected) / 2, rel=1e-6)
    actual = task_loss(Kind.SIMILARITY, torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]))
    assert actual.item() == pytest.approx((1 + 4) / 2)


def test_entailment_has_no_task_loss() -> None:
    with pytest.raises(AssertionError, match="no loss of its own"):
        task_loss(Kind.ENTAILMENT, torch.zeros(1), torch.zeros(1))
