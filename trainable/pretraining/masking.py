"""Masked language modelling: which tokens are to be predicted, and what stands in their place.

Legend: S sentences, L tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlflow_setup.errors import ConfigError
from trainable.batches.tokenization import Tokenizer

IGNORED = -100
"""The label of a token that is not to be predicted, as torch's cross-entropy has it."""

_MASKED, _RANDOM = 0.8, 0.1
"""Shares of the chosen tokens that become [MASK], and a random token; the rest stay."""


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of a tokenizer, token by token."""

    is_special: NDArray[np.bool_]  # [V]
    continues: NDArray[np.bool_]  # [V]: goes on with the word of the token before (`##ing`)
    mask_id: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Vocabulary":
        """Read off a tokenizer whose continued words are marked as WordPiece does.

        Raises:
            ConfigError: it has no [MASK].
        """
        if tokenizer.mask_token_id is None:
            raise ConfigError(
                "pretrain: the encoder's tokenizer has no mask token",
                fix="pretrain.enabled=false, or another model.encoder",
            )
        size = len(tokenizer)
        tokens = tokenizer.convert_ids_to_tokens(range(size))
        is_special = np.zeros(size, np.bool_)
        is_special[[id_ for id_ in tokenizer.all_special_ids if id_ < size]] = True
        continues = np.array([bool(token) and token.startswith("##") for token in tokens])
        return cls(is_special, continues, int(tokenizer.mask_token_id))


def mask(
    ids: NDArray[np.int64],
    attended: NDArray[np.integer[Any]],
    vocabulary: Vocabulary,
    *,
    fraction: float,
    whole_word: bool,
    replacement: Literal["80/10/10", "mask"],
    random: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Masked ids and labels, both [S, L]; at least one token is chosen, never a special one.

    Each word (or token) is chosen with probability `fraction`, by itself, so that this share of
    the tokens is expected to be. What replaces a token is drawn token by token.

    Args:
        ids, attended: `input_ids` and `attention_mask`, [S, L].
    """
    eligible = (attended == 1) & ~vocabulary.is_special[ids]
    units = (
        _words(ids, eligible, vocabulary) if whole_word else np.cumsum(eligible).reshape(ids.shape)
    )
    num_units = int(units.max(initial=0))
    is_chosen = random.random(num_units + 1) < fraction
    is_chosen[0] = False
    if num_units and not is_chosen.any():
        is_chosen[random.integers(1, num_units + 1)] = True
    chosen = eligible & is_chosen[units]
    labels = np.where(chosen, ids, IGNORED)
    masked = ids.copy()
    masked[chosen] = vocabulary.mask_id
    if replacement == "80/10/10":
        draw = random.random(ids.shape)
        ordinary = np.flatnonzero(~vocabulary.is_special)
        is_random = chosen & (draw >= _MASKED) & (draw < _MASKED + _RANDOM)
        masked[is_random] = random.choice(ordinary, size=int(is_random.sum()))
        stays = chosen & (draw >= _MASKED + _RANDOM)
        masked[stays] = ids[stays]
    return masked, labels


def _words(
    ids: NDArray[np.int64], eligible: NDArray[np.bool_], vocabulary: Vocabulary
) -> NDArray[np.int64]:
    """The number of each token's word, from 1 on through all sentences, [S, L]."""
    follows = np.zeros_like(eligible)
    follows[:, 1:] = eligible[:, :-1]
    begins = eligible & ~(vocabulary.continues[ids] & follows)
    return np.cumsum(begins, dtype=np.int64).reshape(begins.shape)
