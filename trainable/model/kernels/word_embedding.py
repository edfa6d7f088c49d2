"""A word embedding whose gradient touches only the rows of the batch.

The dense gradient of a vocabulary-sized table is fresh zeroed memory each step; on a CPU the page
faults of that cost as much as a layer. Here one gradient buffer lasts, and between steps only the
rows that were used are zeroed.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding


class RowGradEmbedding(nn.Embedding):
    """`nn.Embedding` that adds its gradient into a lasting buffer, row by row.

    Same values as the dense gradient. On CUDA, and where no gradient is wanted, it is the plain
    embedding. `weight.grad` is the buffer from the first backward until it is set to None.
    """

    buffer: Tensor | None = None
    used: tuple[Tensor, ...] = ()

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if weight.is_cuda or not (weight.requires_grad and torch.is_grad_enabled()):
            return super().forward(input)
        rows = embedding(input, weight.detach(), self.padding_idx).requires_grad_()
        rows.register_hook(lambda grad: self._accumulate(input, grad))  # type: ignore[no-untyped-call]
        return rows

    def _accumulate(self, input: Tensor, grad: Tensor) -> None:
        ids = input.reshape(-1)
        rows = grad.reshape(-1, grad.shape[-1]).to(self.weight.dtype)
        if self.padding_idx is not None:
            rows = rows * (ids != self.padding_idx).unsqueeze(-1)
        if self.weight.grad is None:
            self.weight.grad = self._zeroed_buffer()
        self.weight.grad.index_add_(0, ids, rows)
        self.used += (ids,)

    def _zeroed_buffer(self) -> Tensor:
        if self.buffer is None:
            self.buffer = torch.zeros_like(self.weight)
        for ids in self.used:
            self.buffer[ids] = 0
        self.used = ()
        return self.buffer


def use_row_gradients(encoder: nn.Module) -> nn.Module:
    """Make the encoder's word embedding, by far its largest table, one of these; returns it."""
    words = encoder.get_input_embeddings()  # type: ignore[operator]
    words.__class__ = RowGradEmbedding
    return encoder
