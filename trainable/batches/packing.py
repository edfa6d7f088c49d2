"""Sentences without padding: the tokens of a batch in one long row, sentence after sentence.

Within the row the shortest sentences stand first, so that those of one length are neighbours and
can be looked at as a rectangle.

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

_ON_DEVICE = ("input_ids", "positions", "sentences", "offsets", "order", "places")


@dataclass(frozen=True)
class Packed:
    """S sentences as one row of T tokens. All tensors are int64."""

    lengths: NDArray[np.int64]  # [S] tokens of the sentences as they stand in the row, ascending
    input_ids: Tensor  # [T]
    positions: Tensor  # [T] of each token in its sentence
    sentences: Tensor  # [T] which of the row's sentences each token is of
    offsets: Tensor  # [S + 1] where the row's sentences begin, and the last one's end
    order: Tensor  # [S] which sentence of those asked for stands where in the row
    places: Tensor  # [S] where in the row each sentence asked for stands

    @cached_property
    def groups(self) -> list[tuple[int, int]]:
        """(sentences, tokens of each) of every length, as they stand in the row."""
        lengths, counts = np.unique(self.lengths, return_counts=True)
        return list(zip(counts.tolist(), lengths.tolist(), strict=True))

    def to(self, device: torch.device) -> "Packed":
        """The same on a device; a GPU is not waited for."""
        moved: dict[str, Any] = {name: upload(getattr(self, name), device) for name in _ON_DEVICE}
        return replace(self, **moved)

    def split(self, num_sentences: int) -> "Iterator[Packed]":
        """The row in parts of at most so many sentences; each part is its own order."""
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
                torch.arange(last - first, device=self.places.device),
            )

    def pad(self, pad_id: int) -> tuple[Tensor, Tensor]:
        """The row's sentences, padded: `input_ids` and `attention_mask` [S, L]."""
        shape = (len(self.lengths), int(self.lengths.max(initial=1)))
        input_ids, mask = self.input_ids.new_full(shape, pad_id), self.input_ids.new_zeros(shape)
        input_ids[self.sentences, self.positions] = self.input_ids
        mask[self.sentences, self.positions] = 1
        return input_ids, mask

    def row_index(self, sentences: NDArray[np.int64], positions: NDArray[np.int64]) -> Tensor:
        """[k] where in the row k tokens stand: of sentences [k] as they were asked for, by their
        positions [k]."""
        starts = self.offsets[self.places[torch.from_numpy(sentences)]]
        return starts + torch.from_numpy(positions)

    def of_tokens(self, values: Tensor) -> Tensor:
        """[T, H] from values [S, L, H] of the sentences as they were asked for."""
        return values[self.order[self.sentences], self.positions]


def pack(flat: NDArray[np.int32], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Packed:
    """The sentences flat[start : start + length], [S] of them."""
    order = np.argsort(lengths, kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    lengths = lengths[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sentences = np.repeat(np.arange(len(order)), lengths)
    positions = np.arange(len(sentences)) - offsets[sentences]
    input_ids = flat[starts[order][sentences] + positions].astype(np.int64)
    tensors = map(torch.from_numpy, (input_ids, positions, sentences, offsets, order, places))
    return Packed(lengths, *tensors)
