"""Schedule and parameter groups."""

import pytest
from torch import nn

from trainable.config.sections import Optim
from trainable.training.optimizer import build_optimizer
from trainable.training.stages import learning_rate


@pytest.mark.parametrize(
    ("epoch", "expected"), [(1, 1e-5), (2, 1e-5 - 4e-7), (11, 1e-5 - 4e-6), (20, 1e-5 - 19 * 4e-7)]
)
def test_the_papers_decay(epoch: int, expected: float) -> None:
    assert learning_rate(Optim(lr=1e-5, lr_decay=0.8), epoch, 20) == pytest.approx(expected)


def test_constant_without_decay_and_never_negative() -> None:
    assert learning_rate(Optim(lr=1e-3), 7, 10) == 1e-3
    assert learning_rate(Optim(lr=1e-3, lr_decay=1.0), 30, 10) == 0.0


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    matrices, vectors = build_optimizer(model, Optim(weight_decay=0.1)).param_groups
    assert (matrices["weight_decay"], len(matrices["params"])) == (0.1, 1)
    assert (vectors["weight_decay"], len(vectors["params"])) == (0.0, 3)
