"""A BERT's last layer for the tokens alone whose states are asked for.

Pooling by [CLS] takes one state of a sentence, masked language modelling those of the masked
tokens. The last layer's states of the other tokens are not used: of them it needs keys and
values, which is 2 of the 12 parts of its products.

Legend: S sentences, T tokens of all of them, C chosen tokens, H hidden size.
"""

from typing import Any

import torch
from torch import Tensor

from trainable.batches.packing import Packed
from trainable.runtime.precision import to_float32


def first_tokens(layer: Any, states: Tensor, packed: Packed) -> Tensor:
    """The layer's states [S, H] of the row's first tokens, from the states [T, H] before it.

    Args:
        layer: a `BertLayer`; its own forward pass over all tokens gives the same.
    """
    first = states[packed.offsets[:-1]]
    mixed = _attend(layer.attention.self, first, states, packed)
    output: Tensor = layer.feed_forward_chunk(layer.attention.output(mixed, first))
    return output


def chosen_tokens(layer: Any, states: Tensor, chosen: Tensor, packed: Packed) -> Tensor:
    """The layer's states [C, H] of the row's tokens `chosen` [C], from the states [T, H] before it.

    Args:
        layer: a `BertLayer`; its own forward pass over all tokens gives the same.
    """
    mixed, _ = layer.attention.self(states[None], packed=packed)
    output: Tensor = layer.feed_forward_chunk(
        layer.attention.output(mixed[0][chosen], states[chosen])
    )
    return output


def _attend(attention: Any, first: Tensor, states: Tensor, packed: Packed) -> Tensor:
    """[S, H]: what each first token sees of its sentence. Sums over a sentence are in float32."""
    heads = (attention.num_attention_heads, attention.attention_head_size)
    query = attention.query(first).unflatten(-1, heads)
    key, value = (
        project(states).unflatten(-1, heads) for project in (attention.key, attention.value)
    )
    scores = to_float32(query[packed.sentences] * key).sum(-1) * attention.scaling  # [T, heads]
    weights = attention.dropout(_softmax(scores, packed))
    return _reduce(weights[..., None] * value, "sum", packed).flatten(1)


def _softmax(scores: Tensor, packed: Packed) -> Tensor:
    """Over the tokens of each sentence."""
    highest = _reduce(scores.detach(), "max", packed)
    powers = (scores - highest[packed.sentences]).exp()
    return powers / _reduce(powers, "sum", packed)[packed.sentences]


def _reduce(values: Tensor, how: str, packed: Packed) -> Tensor:
    """[S, ...] of values [T, ...] of the row's tokens."""
    return torch.segment_reduce(values, how, offsets=packed.offsets)
