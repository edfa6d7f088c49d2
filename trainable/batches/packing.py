"""Packing without padding: the sentences of a batch, concatenated into one row of tokens.

Sentences are sorted by length within the row, so that those of equal length are adjacent and can be
viewed as a rectangular batch.

Legend: S sentences, T tokens of all of them, L tokens of the longest, H hidden size.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainable.runtime.transfer import upload

_ON_DEVICE = ("input_ids", "positions", "sentences", "offsets", "order", "inverse_order")


@dataclass(frozen=True)
class Packed:
    """S sentences as one row of T tokens. All tensors are int64."""

    lengths: NDArray[np.int64]  # [S] tokens per sentence of the row, ascending
    input_ids: Tensor  # [T]
    positions: Tensor  # [T] position of each token in its sentence
    sentences: Tensor  # [T] index, in the row, of each token's sentence
    offsets: Tensor  # [S + 1] start of each sentence in the row, and the end of the last
    order: Tensor  # [S] for each sentence of the row: its index in the original order
    inverse_order: Tensor  # [S] for each sentence in the original order: its index in the row

    @cached_property
    def groups(self) -> list[tuple[int, int]]:
        """(number of sentences, tokens per sentence) for each length, in the order of the row."""
        lengths, counts = np.unique(self.lengths, return_counts=True)
        return list(zip(counts.tolist(), lengths.tolist(), strict=True))

    def to(self, device: torch.device) -> "Packed":
        """Copy the row to a device, without waiting for a GPU."""
        moved: dict[str, Any] = {name: upload(getattr(self, name), device) for name in _ON_DEVICE}
        return replace(self, **moved)

    def split(self, num_sentences: int) -> "Iterator[Packed]":
        """Split the row into rows of at most `num_sentences`; results of a part keep the order of
        this row."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        for first in range(0, len(self.lengths), num_sentences):
            last = min(first + num_sentences, len(self.lengths))
            tokens = slice(int(ends[first]), int(ends[last]))
            yield Packed(
                self.lengths[first:last],
                self.input_ids[tokens],
                self.positions[tokens],
                self.sentences[tokens] - first,
                self.offsets[first : last + 1] - int(ends[first]),
                self.order[first:last],
                torch.arange(last - first, device=self.inverse_order.device),
            )

    def pad(self, pad_id: int) -> tuple[Tensor, Tensor]:
        """The row's sentences, padded: `input_ids` and `attention_mask` [S, L]."""
        shape = (len(self.lengths), int(self.lengths.max(initial=1)))
        input_ids, mask = self.input_ids.new_full(shape, pad_id), self.input_ids.new_zeros(shape)
        input_ids[self.sentences, self.positions] = self.input_ids
        mask[self.sentences, self.positions] = 1
        return input_ids, mask

    def row_index(self, sentences: NDArray[np.int64], positions: NDArray[np.int64]) -> Tensor:
        """Row indices [k] of tokens, given their sentences [k] (in the original order) and their
        positions [k] in them."""
        starts = self.offsets[self.inverse_order[torch.from_numpy(sentences)]]
        return starts + torch.from_numpy(positions)

    def of_tokens(self, values: Tensor) -> Tensor:
        """The values [T, H] of the row's tokens, from values [S, L, H] in the original order."""
        return values[self.order[self.sentences], self.positions]


def pack(flat: NDArray[np.int32], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Packed:
    """Pack the sentences flat[start : start + length], for starts and lengths [S]."""
    order = np.argsort(lengths, kind="stable")
    inverse_order = np.empty_like(order)
    inverse_order[order] = np.arange(len(order))
    lengths = lengths[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sentences = np.repeat(np.arange(len(order)), lengths)
    positions = np.arange(len(sentences)) - offsets[sentences]
    input_ids = flat[starts[order][sentences] + positions].astype(np.int64)
    arrays = (input_ids, positions, sentences, offsets, order, inverse_order)
    return Packed(lengths, *map(torch.from_numpy, arrays))
