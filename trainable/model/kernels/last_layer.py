"""A BERT's last layer, computed only for the tokens whose states are needed.

Pooling by [CLS] needs one state per sentence, masked language modelling those of the masked tokens.
For all other tokens the last layer only computes keys and values, 2/12 of its matrix products.

Legend: S sentences, T tokens of all of them, C chosen tokens, H hidden size.
"""

from typing import Any

import torch
from torch import Tensor

from trainable.batches.packing import Packed
from trainable.runtime.precision import to_float32


def first_tokens(layer: Any, states: Tensor, packed: Packed) -> Tensor:
    """The layer's output [S, H] for the first token of each sentence.

    Args:
        layer: a `BertLayer`; its forward pass over all tokens gives the same values.
        states: the layer's input [T, H].
    """
    first = states[packed.offsets[:-1]]
    mixed = _attend(layer.attention.self, first, states, packed)
    output: Tensor = layer.feed_forward_chunk(layer.attention.output(mixed, first))
    return output


def chosen_tokens(layer: Any, states: Tensor, chosen: Tensor, packed: Packed) -> Tensor:
    """The layer's output [C, H] for the tokens `chosen` [C] (row indices).

    Args:
        layer: a `BertLayer`; its forward pass over all tokens gives the same values.
        states: the layer's input [T, H].
    """
    mixed, _ = layer.attention.self(states[None], packed=packed)
    output: Tensor = layer.feed_forward_chunk(
        layer.attention.output(mixed[0][chosen], states[chosen])
    )
    return output


def _attend(attention: Any, first: Tensor, states: Tensor, packed: Packed) -> Tensor:
    """Attention output [S, H] of each sentence's first token; sums are in float32."""
    heads = (attention.num_attention_heads, attention.attention_head_size)
    query = attention.query(first).unflatten(-1, heads)
    key, value = (
        project(states).unflatten(-1, heads) for project in (attention.key, attention.value)
    )
    scores = to_float32(query[packed.sentences] * key).sum(-1) * attention.scaling  # [T, heads]
    weights = attention.dropout(_softmax(scores, packed))
    return _reduce(weights[..., None] * value, "sum", packed).flatten(1)


def _softmax(scores: Tensor, packed: Packed) -> Tensor:
    """Softmax of scores [T, heads] over the tokens of each sentence."""
    highest = _reduce(scores.detach(), "max", packed)
    powers = (scores - highest[packed.sentences]).exp()
    return powers / _reduce(powers, "sum", packed)[packed.sentences]


def _reduce(values: Tensor, how: str, packed: Packed) -> Tensor:
    """Reduce values [T, ...] over the tokens of each sentence to [S, ...]."""
    return torch.segment_reduce(values, how, offsets=packed.offsets)
