"""Gradient caching: a batch's sentences go through the encoder a few at a time (Gao et al., 2021).

Heads and losses see the whole batch, so the effective batch and the in-batch negatives stay what
they are. Of each part only the embeddings are kept; where its gradient is asked for, the part goes
through the encoder once more, by the same dropout masks.

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
    """`embed(packed, noise)` [S, H], at most so many sentences at once; None: all of them."""
    if num_sentences is None or num_sentences >= len(packed.lengths):
        return embed(packed, noise)

    def part(input_ids: Tensor, few: Packed) -> Tensor:
        return embed(few, noise)

    pieces = [  # the tensor tells which device's generator has to be put back
        checkpoint(part, few.input_ids, few, use_reentrant=False)
        for few in packed.split(num_sentences)
    ]
    return torch.cat(pieces)[packed.places]
