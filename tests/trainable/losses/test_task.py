"""The loss of each kind of task equals values computed by hand in float64."""

import math

import pytest
import torch
from torch import nn

from trainable.config.tasks import Kind
from trainable.losses.task import task_loss


def _double(values: list[float] | list[list[float]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_task_losses_equal_values_computed_by_hand() -> None:
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


def test_similarity_loss_equals_sentence_transformers() -> None:
    """There scores are cosines; the paper's scores are 5 times that."""
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    torch.manual_seed(0)
    left, right, cosines = torch.randn(16, 32), torch.randn(16, 32), torch.rand(16)
    theirs = CosineSimilarityLoss(model=nn.Identity())
    expected = theirs.compute_loss_from_embeddings([left, right], cosines)
    score = 5 * torch.cosine_similarity(left, right)
    ours = task_loss(Kind.SIMILARITY, score, 5 * cosines)
    assert ours.item() / 25 == pytest.approx(expected.item(), rel=1e-5)


def test_entailment_has_no_task_loss() -> None:
    with pytest.raises(AssertionError, match="no supervised loss"):
        task_loss(Kind.ENTAILMENT, torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.PARAPHRASE, Kind.SIMILARITY])
def test_losses_of_half_precision_outputs_are_computed_in_float32(
    kind: Kind, dtype: torch.dtype
) -> None:
    outputs = torch.randn((4, 3) if kind is Kind.CLASSIFICATION else (4,)).to(dtype)
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0])
    found = task_loss(kind, outputs, labels)
    assert found.dtype is torch.float32
    expected = task_loss(kind, outputs.double(), labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
