"""The fast dropout drops the share it says, keeps the mean, and is seeded."""

import pytest
import torch
from torch import nn

from trainable.model.kernels.dropout import Dropout, fast_dropout, use_fast_dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.5, 0.999])
def test_share_and_scale(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1003)
    dropped = fast_dropout(x, p)
    share = min(round(p * 256), 255) / 256
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=5e-3)
    assert dropped.max().item() == pytest.approx(1 / (1 - share), rel=1e-6)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05 if p > 0.9 else 5e-3)


def test_gradient_is_the_mask() -> None:
    x = torch.ones(64, 64, requires_grad=True)
    y = fast_dropout(x, 0.25)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_seeded_by_torch_and_independent_between_calls() -> None:
    x = torch.ones(100, 100)
    torch.manual_seed(1)
    first, second = fast_dropout(x, 0.5), fast_dropout(x, 0.5)
    torch.manual_seed(1)
    assert torch.equal(first, fast_dropout(x, 0.5))
    assert (first == second).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_off_in_eval_mode_and_at_zero() -> None:
    x = torch.rand(10, 10)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x


def test_every_dropout_of_a_model_is_replaced() -> None:
    model = nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.4)))
    use_fast_dropout(model)
    kinds = [(type(m), m.p) for m in model.modules() if isinstance(m, nn.Dropout)]
    assert kinds == [(Dropout, 0.2), (Dropout, 0.4)]
