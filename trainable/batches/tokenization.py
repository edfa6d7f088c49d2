"""Tokenised sentences: computed once, cached on disk, and packed per batch.

Legend: N sentences, B examples and S sentences of a batch, L tokens of the longest of them.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor
from transformers import AutoTokenizer

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.paths import cache_folder
from mlflow_setup.text import first_line, short_hash
from trainable.batches.packing import Packed, pack
from trainable.data.examples import Examples
from trainable.data.remote import locate
from trainable.runtime.cache import write_cached

Tokenizer = Any  # transformers.PreTrainedTokenizerFast; the library is untyped

_CHUNK = 10_000


@dataclass(frozen=True)
class Tokens:
    """Token ids of N sentences, concatenated, special tokens included."""

    flat: NDArray[np.int32]  # all ids
    offsets: NDArray[np.int64]  # [N + 1]
    pad_id: int

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each sentence, [N]."""
        return np.diff(self.offsets)

    def distinct_ids(self) -> NDArray[np.int64]:
        """An ID for each sentence, [N]: equal for equal sentences, from 0 in order of first
        occurrence."""
        known: dict[bytes, int] = {}
        ends = itertools.pairwise(self.offsets.tolist())
        sentences = (self.flat[first:last].tobytes() for first, last in ends)
        return np.array([known.setdefault(each, len(known)) for each in sentences], np.int64)

    def pack(self, rows: NDArray[np.int64]) -> Packed:
        """Pack the sentences `rows` [S] into one row."""
        return pack(self.flat, self.offsets[rows], self.lengths[rows])

    def pad(self, rows: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`input_ids` and `attention_mask`, both [S, L], for the sentences `rows` [S]."""
        lengths = self.lengths[rows]
        columns = np.arange(int(lengths.max(initial=1)))
        mask = columns < lengths[:, None]
        position = self.offsets[rows][:, None] + columns
        ids = np.where(mask, self.flat[np.minimum(position, len(self.flat) - 1)], self.pad_id)
        return ids.astype(np.int64), mask.astype(np.int64)


@dataclass(frozen=True)
class Encoded:
    """The n tokenised examples of a task and split; the sentence of (side, row) has the index
    side * n + row."""

    tokens: Tokens
    num_examples: int
    num_sides: int
    labels: Tensor | None  # float32 [n], or [n, C] for sets of labels
    has_negative: NDArray[np.bool_] | None = None
    """[n]: whether the example has a hard negative, a sentence on an additional side."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each example's longest sentence, [n]."""
        own = self.tokens.lengths[: self.num_sides * self.num_examples]
        return np.asarray(own.reshape(self.num_sides, self.num_examples).max(axis=0))

    def sentences(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sentence indices [num_sides * B] of the examples `rows` [B], side by side."""
        sides = np.arange(self.num_sides)[:, None] * self.num_examples
        return np.asarray((sides + rows).ravel())

    def negatives(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sentence indices of the hard negatives of the examples `rows` [B], from none to B."""
        if self.has_negative is None:
            return np.zeros(0, np.int64)
        return np.asarray(self.num_sides * self.num_examples + rows[self.has_negative[rows]])


def load_tokenizer(name: str | Path, revision: str | None = None) -> Tokenizer:
    """The fast tokenizer of an encoder (a hub name, folder or `minilm`).

    Raises:
        ConfigError: there is no tokenizer, it has no fast version, or its vocabulary is empty.
    """
    place = locate(str(name))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            place, revision=revision, use_fast=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise ConfigError(
            f"model.encoder={name}: no tokenizer found: {reason}",
            fix="name a hub encoder that can be reached, a local folder, or minilm",
        ) from None
    if not tokenizer.is_fast:
        raise ConfigError(f"model.encoder={name}: its tokenizer has no fast version")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers' fallback without files
        raise ConfigError(
            f"model.encoder={name}: its tokenizer has no vocabulary",
            fix="put the tokenizer's files (tokenizer.json) into the encoder's folder",
        )
    return tokenizer


def tokenizer_fingerprint(tokenizer: Tokenizer, max_length: int) -> str:
    """A hash, 16 hex characters, of the tokenizer's vocabulary and rules and of `max_length`."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    rules = tokenizer.backend_tokenizer.to_str()
    return short_hash(f"{rules}\0{max_length}")


def encode(
    examples: Examples, tokenizer: Tokenizer, max_length: int, with_negatives: bool = False
) -> Encoded:
    """Tokenise the examples, or read their tokens from the cache.

    Args:
        with_negatives: include the third sentences of entailment rows.
    """
    key = f"{examples.fingerprint}-{tokenizer_fingerprint(tokenizer, max_length)}"
    sentences = [sentence for side in examples.sentences for sentence in side]
    has_negative = None
    if with_negatives and examples.contradictions is not None:
        key += "-negatives"
        sentences += examples.contradictions
        has_negative = np.array([bool(sentence) for sentence in examples.contradictions])
    path = cache_folder() / "tokens" / f"{key}.safetensors"
    tokens = _read(path, len(sentences), tokenizer.pad_token_id)
    if tokens is None:
        tokens = tokenise(sentences, tokenizer, max_length)
        write_cached(path, save({"flat": tokens.flat, "offsets": tokens.offsets}))
    targets = examples.targets
    return Encoded(
        tokens,
        num_examples=len(examples),
        num_sides=len(examples.sentences),
        labels=None if targets is None else torch.from_numpy(targets),
        has_negative=has_negative,
    )


def tokenise(sentences: Sequence[str], tokenizer: Tokenizer, max_length: int) -> Tokens:
    """Tokenise sentences, truncated to `max_length` tokens including special tokens."""
    pieces, lengths = [], [0]
    for start in range(0, len(sentences), _CHUNK):
        chunk = list(sentences[start : start + _CHUNK])
        rows = tokenizer(
            chunk,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        pieces += [np.asarray(row, np.int32) for row in rows]
        lengths += [len(row) for row in rows]
    # Restored, because a saved tokenizer must not depend on whether the tokens were cached.
    tokenizer.backend_tokenizer.no_truncation()
    flat = np.concatenate(pieces) if pieces else np.zeros(1, np.int32)
    return Tokens(flat, np.cumsum(lengths, dtype=np.int64), int(tokenizer.pad_token_id))


def _read(path: Path, num_sentences: int, pad_id: int) -> Tokens | None:
    """The cached tokens; None: missing or damaged."""
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError):
        return None
    tokens = Tokens(arrays["flat"], arrays["offsets"], pad_id)
    return tokens if len(tokens.offsets) == num_sentences + 1 else None
