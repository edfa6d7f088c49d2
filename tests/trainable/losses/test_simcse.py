"""SimCSE equals the reference in float64."""

import pytest
import reference
import torch

from trainable.losses.simcse import simcse


def test_simcse_equals_the_reference() -> None:
    x, y = (torch.randn(4, 3, dtype=torch.float64) for _ in range(2))
    dot = reference.ranking_terms(x, y, "dot", 1.0).mean().item()
    cosine = reference.ranking_terms(x, y, "cosine", 1 / 0.05).mean().item()
    assert simcse(x, y, "dot", 0.05).item() == pytest.approx(dot, rel=1e-12)
    assert simcse(x, y, "cosine", 0.05).item() == pytest.approx(cosine, rel=1e-12)
