"""Scaled dot-product attention that is fast with dropout on a CPU.

There torch's fused kernel cannot drop, and falls back to a slow path with slow random numbers.
On CUDA the fused kernel is called as it is.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, softmax
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from trainable.dropout import fast_dropout

NAME = "ensweep"


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention call: query, key, value [S, heads, L, width] -> [S, L, heads, width].

    `attention_mask` is added to the scores: 0 where a token may be seen, very negative elsewhere.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    p = dropout if module.training else 0.0
    if query.is_cuda or p == 0:
        mixed = scaled_dot_product_attention(
            query, key, value, attention_mask, dropout_p=p, scale=scale
        )
    else:
        scores = torch.matmul(query * scale, key.transpose(2, 3))
        if attention_mask is not None:
            scores = scores + attention_mask
        weights = softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        mixed = torch.matmul(fast_dropout(weights, p), value)
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, eager_mask)
