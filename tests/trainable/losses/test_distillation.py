"""The distillation loss equals values computed by hand in float64."""

import math

import pytest
import torch

from trainable.config.tasks import Kind
from trainable.losses.distillation import soft_loss


def _double(values: list[float] | list[list[float]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_soft_losses_equal_values_computed_by_hand() -> None:
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.PARAPHRASE, Kind.SIMILARITY])
def test_losses_of_half_precision_outputs_are_computed_in_float32(
    kind: Kind, dtype: torch.dtype
) -> None:
    shape = (4, 3) if kind is Kind.CLASSIFICATION else (4,)
    outputs, teacher = torch.randn(shape).to(dtype), torch.randn(shape, dtype=torch.float64)
    found = soft_loss(kind, outputs, teacher)
    assert found.dtype is torch.float32
    expected = soft_loss(kind, outputs.double(), teacher)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
