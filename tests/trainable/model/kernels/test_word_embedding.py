"""The row-wise embedding gradient equals the dense one."""

import torch
from torch import nn

from trainable.model.kernels.word_embedding import RowGradEmbedding


def test_gradients_equal_the_dense_ones_in_every_step_and_add_up_over_batches() -> None:
    torch.manual_seed(0)
    plain = nn.Embedding(50, 8, padding_idx=0)
    rows = nn.Embedding(50, 8, padding_idx=0)
    rows.load_state_dict(plain.state_dict())
    rows.__class__ = RowGradEmbedding
    batches = [torch.tensor([[1, 2, 2], [3, 0, 0]]), torch.tensor([[2, 49, 0]])]
    for step in range(3):
        for ids in batches[: step + 1]:
            weights = torch.rand(*ids.shape, 8)
            for embedding in (plain, rows):
                (embedding(ids) * weights).sum().backward()
        assert torch.allclose(rows.weight.grad, plain.weight.grad, atol=1e-6)
        assert rows.weight.grad[0].eq(0).all()
        for embedding in (plain, rows):
            embedding.zero_grad(set_to_none=True)


def test_frozen_or_without_gradients_it_is_plain() -> None:
    rows = nn.Embedding(5, 2)
    rows.__class__ = RowGradEmbedding
    with torch.no_grad():
        assert not rows(torch.tensor([1])).requires_grad
    rows.weight.requires_grad_(False)
    assert not rows(torch.tensor([1])).requires_grad
