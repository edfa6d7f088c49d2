"""Each loss against values computed by hand in float64."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from trainable.batches.collate import Batch
from trainable.config.parse import from_flat
from trainable.config.tasks import Kind
from trainable.losses.distillation import soft_loss
from trainable.losses.objective import Objective
from trainable.losses.ranking import positive_ranking, ranking, weighted_ranking
from trainable.losses.simcse import simcse
from trainable.losses.task import task_loss
from trainable.model.heads import HeadOutput

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
    actual = ranking(_double(X), _double(Y), similarity, scale)  # type: ignore[arg-type]
    assert actual.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("max_score", [5.0, 1.0])
def test_weighted_ranking_weighs_a_five_e4_times_a_one(max_score: float) -> None:
    labels = [5.0, 1.0, 0.0]
    total = sum(math.exp(j) for j in range(6))
    terms = _by_hand(X, Y, True, 20.0)
    expected = sum(math.exp(g) / total * t for g, t in zip(labels, terms, strict=True)) / 3
    scaled = _double(labels) * max_score / 5
    actual = weighted_ranking(_double(X), _double(Y), scaled, "cosine", 20.0, max_score=max_score)
    assert actual.item() == pytest.approx(expected, rel=1e-12)
    assert actual.item() > 0


def test_positive_ranking_is_ranking_among_the_positives() -> None:
    x, y = torch.tensor(X, dtype=torch.float64), torch.tensor(Y, dtype=torch.float64)
    expected = sum(_by_hand([X[0], X[2]], [Y[0], Y[2]], True, 20.0)) / 2
    labels = torch.tensor([1.0, 0.0, 1.0])
    assert positive_ranking(x, y, labels, "cosine", 20.0).item() == pytest.approx(expected)
    x.requires_grad_()
    none = positive_ranking(x, y, torch.zeros(3), "cosine", 20.0)
    none.backward()
    assert none.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_hard_negatives_are_ranked_beside_the_positives() -> None:
    """Two of three rows have one; each stands against every anchor."""
    negatives = [[0.5, 0.5], [-1.0, 0.3]]
    terms = []
    for i, left in enumerate(X):
        scores = [sum(a * b for a, b in zip(left, right, strict=True)) for right in Y + negatives]
        terms.append(math.log(sum(math.exp(score) for score in scores)) - scores[i])
    x, y, n = (torch.tensor(rows, dtype=torch.float64) for rows in (X, Y, negatives))
    assert ranking(x, y, "dot", 1.0, n).item() == pytest.approx(sum(terms) / 3, rel=1e-12)


@pytest.mark.parametrize("num_negatives", [0, 1])
def test_ranking_equals_sentence_transformers(num_negatives: int) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    torch.manual_seed(0)
    sides = [torch.randn(16, 32, dtype=torch.float64) for _ in range(2 + num_negatives)]
    theirs = MultipleNegativesRankingLoss(model=nn.Identity(), scale=20.0)
    expected = theirs.compute_loss_from_embeddings(sides, None)
    ours = ranking(sides[0], sides[1], "cosine", 20.0, sides[2] if num_negatives else None)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-10)


def test_similarity_loss_equals_sentence_transformers() -> None:
    """Its siblings score a cosine in [0, 1] or [-1, 1]; the paper's score is 5 times that."""
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    torch.manual_seed(0)
    left, right, cosines = torch.randn(16, 32), torch.randn(16, 32), torch.rand(16)
    theirs = CosineSimilarityLoss(model=nn.Identity())
    expected = theirs.compute_loss_from_embeddings([left, right], cosines)
    score = 5 * torch.cosine_similarity(left, right)
    ours = task_loss(Kind.SIMILARITY, score, 5 * cosines)
    assert ours.item() / 25 == pytest.approx(expected.item(), rel=1e-5)


def test_soft_losses_by_hand() -> None:
    def softmax(z: list[float]) -> list[float]:
        total = sum(math.exp(value) for value in z)
        return [math.exp(value) / total for value in z]

    student, teacher = [[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]], [[1.0, 1.0, 0.0], [0.5, -0.5, 2.0]]
    expected = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        logs = [math.log(value) for value in softmax(ours)]
        expected -= sum(p * log for p, log in zip(softmax(theirs), logs, strict=True)) / 2
    actual = soft_loss(Kind.CLASSIFICATION, _double(student), _double(teacher))
    assert actual.item() == pytest.approx(expected, rel=1e-12)

    q, p = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(2.0))
    expected = -(p * math.log(q) + (1 - p) * math.log(1 - q))
    actual = soft_loss(Kind.PARAPHRASE, _double([0.5]), _double([-2.0]))
    assert actual.item() == pytest.approx(expected, rel=1e-12)

    actual = soft_loss(Kind.SIMILARITY, _double([1.0, 4.0]), _double([2.5, 3.0]))
    assert actual.item() == pytest.approx((1.5**2 + 1) / 2)


def test_the_papers_mix_of_labels_and_soft_labels() -> None:
    """0.6 of one and 0.4 of the other; the paraphrase weight applies to the whole mix."""
    logit, labels, teacher = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.0]), [2.0, 1.0]
    settings = {"distill.enabled": True, "loss.paraphrase_weight": 0.1}
    batch = Batch("paraphrase", np.arange(0), (2, 2), labels, torch.tensor(teacher), None, 0)
    hard = task_loss(Kind.PARAPHRASE, logit, labels)
    soft = soft_loss(Kind.PARAPHRASE, logit, torch.tensor(teacher))
    objective = Objective(from_flat(settings))
    mixed = objective.without_smart(batch, HeadOutput(logit, ()))
    assert mixed.item() == pytest.approx(0.1 * (0.6 * hard + 0.4 * soft).item())
    other = torch.tensor([0.0, 3.0])
    beside = objective.without_smart(batch, HeadOutput(logit, (), other))
    apart = soft_loss(Kind.PARAPHRASE, other, torch.tensor(teacher))
    assert beside.item() == pytest.approx(0.1 * (hard + 0.4 * apart).item())


def _double(values: list[float] | list[list[float]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_simcse_is_a_dot_product_or_a_cosine_over_the_temperature() -> None:
    x, y = _double(X), _double(Y)
    dot = sum(_by_hand(X, Y, False, 1.0)) / 3
    cosine = sum(_by_hand(X, Y, True, 1 / 0.05)) / 3
    assert simcse(x, y, "dot", 0.05).item() == pytest.approx(dot, rel=1e-12)
    assert simcse(x, y, "cosine", 0.05).item() == pytest.approx(cosine, rel=1e-12)


def test_task_losses() -> None:
    logits = _double([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    expected = [
        math.log(math.exp(2) + 1 + math.exp(-1)) - (-1.0),
        math.log(2 + math.e) - 1.0,
    ]
    actual = task_loss(Kind.CLASSIFICATION, logits, torch.tensor([2.0, 1.0]))
    assert actual.item() == pytest.approx(sum(expected) / 2, rel=1e-12)
    logit = _double([0.5, -2.0])
    expected = [math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(-2.0))]
    actual = task_loss(Kind.PARAPHRASE, logit, torch.tensor([1.0, 0.0]))
    assert actual.item() == pytest.approx(sum(expected) / 2, rel=1e-12)
    actual = task_loss(Kind.SIMILARITY, torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]))
    assert actual.item() == pytest.approx((1 + 4) / 2)


def test_entailment_has_no_task_loss() -> None:
    with pytest.raises(AssertionError, match="no loss of its own"):
        task_loss(Kind.ENTAILMENT, torch.zeros(1), torch.zeros(1))
