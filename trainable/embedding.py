"""A word embedding whose gradient touches only the rows of the batch.

The dense gradient of a vocabulary-sized table is fresh zeroed memory each step; on a CPU the page
faults of that cost as much as a layer. Here the gradient buffer stays, and rows are added to it.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding


class RowGradEmbedding(nn.Embedding):
    """`nn.Embedding` that adds its gradient into a lasting `weight.grad`, row by row.

    Zero the gradients with `set_to_none=False`. Same values as the dense gradient; on CUDA, and
    where no gradient is wanted, it is the plain embedding.
    """

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if weight.is_cuda or not (weight.requires_grad and torch.is_grad_enabled()):
            return super().forward(input)
        rows = embedding(input, weight.detach(), self.padding_idx).requires_grad_()
        rows.register_hook(lambda grad: self._accumulate(input, grad))
        return rows

    def _accumulate(self, ids: Tensor, grad: Tensor) -> None:
        if self.weight.grad is None:
            self.weight.grad = torch.zeros_like(self.weight)
        rows = grad.reshape(-1, grad.shape[-1]).to(self.weight.dtype)
        if self.padding_idx is not None:
            rows = rows * (ids.reshape(-1, 1) != self.padding_idx)
        self.weight.grad.index_add_(0, ids.reshape(-1), rows)


def use_row_gradients(encoder: nn.Module) -> nn.Module:
    """Make the encoder's word embedding, by far its largest table, one of these; returns it."""
    words = encoder.get_input_embeddings()  # type: ignore[operator]
    words.__class__ = RowGradEmbedding
    return encoder
