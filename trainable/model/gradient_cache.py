"""Gradient caching: the encoder processes a batch in micro-batches (Gao et al., 2021).

Heads and losses see the whole batch, so batch size and in-batch negatives do not change. The
forward pass keeps only the embeddings of each micro-batch; the backward pass runs the encoder again
with the same dropout masks.

Legend: S sentences, H hidden size.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainable.batches.packing import Packed


def embed_in_parts(
    embed: Callable[[Packed, Tensor | None], Tensor],
    packed: Packed,
    noise: Tensor | None,
    num_sentences: int | None,
) -> Tensor:
    """`embed(packed, noise)` [S, H], for at most `num_sentences` at a time; None: all at once."""
    if num_sentences is None or num_sentences >= len(packed.lengths):
        return embed(packed, noise)

    def embed_part(input_ids: Tensor, part: Packed) -> Tensor:
        return embed(part, noise)

    parts = [  # `checkpoint` restores the generator of the device of its tensor arguments
        checkpoint(embed_part, part.input_ids, part, use_reentrant=False)
        for part in packed.split(num_sentences)
    ]
    return torch.cat(parts)[packed.inverse_order]
