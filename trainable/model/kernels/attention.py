"""Scaled dot-product attention within each sentence, for padded batches and packed rows.

In a packed row, the sentences of equal length form a rectangular batch, with one product each. On
CUDA the row is a nested tensor, which the fused kernels process at once.

Legend: S sentences, L tokens of the longest, T tokens of all of them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from trainable.batches.packing import Packed

NAME = "ensweep"


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed: Packed | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: query, key, value [S, heads, L, width] ->
    [S, L, heads, width].

    Args:
        attention_mask: added to the scores: 0 where a token is visible, very negative elsewhere.
        packed: the row's sentences, where query, key and value are one row [1, heads, T, width];
            without a mask.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    p = dropout if module.training else 0.0
    if packed is None:
        mixed = scaled_dot_product_attention(
            query, key, value, attention_mask, dropout_p=p, scale=scale
        )
        mixed = mixed.transpose(1, 2).contiguous()
    else:
        q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # [T, heads, width]
        mixed = (nested if query.is_cuda else by_length)(q, k, v, packed, p, scale)[None]
    return mixed, None


def by_length(
    query: Tensor, key: Tensor, value: Tensor, packed: Packed, p: float, scale: float
) -> Tensor:
    """Attention over a row [T, heads, width], one batch per sentence length."""
    sizes = [count * length for count, length in packed.groups]
    parts = zip(*(torch.split(part, sizes) for part in (query, key, value)), strict=True)
    mixed = []
    for group, group_parts in zip(packed.groups, parts, strict=True):
        q, k, v = (part.unflatten(0, group).transpose(1, 2) for part in group_parts)
        group_mixed = scaled_dot_product_attention(q, k, v, dropout_p=p, scale=scale)
        mixed.append(group_mixed.transpose(1, 2).flatten(0, 1))
    return torch.cat(mixed)


def nested(
    query: Tensor, key: Tensor, value: Tensor, packed: Packed, p: float, scale: float
) -> Tensor:
    """Attention over a row [T, heads, width] as a nested tensor of sentences."""
    shortest, longest = int(packed.lengths[0]), int(packed.lengths[-1])
    q, k, v = (
        torch.nested.nested_tensor_from_jagged(
            part.contiguous(), packed.offsets, min_seqlen=shortest, max_seqlen=longest
        ).transpose(1, 2)
        for part in (query, key, value)
    )
    mixed = scaled_dot_product_attention(q, k, v, dropout_p=p, scale=scale)
    values: Tensor = mixed.transpose(1, 2).contiguous().values()
    return values


# never compiled: its loop has a different length in each batch
AttentionInterface.register(NAME, torch.compiler.disable(attention))  # type: ignore[no-untyped-call]
AttentionMaskInterface.register(NAME, eager_mask)
