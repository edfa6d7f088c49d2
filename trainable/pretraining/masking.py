"""Masking: the selection of tokens to predict, and their replacement.

Legend: S sentences, L tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlflow_setup.errors import ConfigError
from trainable.batches.tokenization import Tokenizer

IGNORED = -100
"""The label of a token that is not predicted; the default of torch's cross-entropy."""

_MASKED, _RANDOM = 0.8, 0.1
"""Fractions of the selected tokens that become [MASK], and a random token; the rest is kept."""


@dataclass(frozen=True)
class Vocabulary:
    """The properties of a tokenizer's tokens that masking needs."""

    is_special: NDArray[np.bool_]  # [V]
    continues: NDArray[np.bool_]  # [V]: continues the word of the previous token (`##ing`)
    mask_id: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Vocabulary":
        """The vocabulary of a WordPiece tokenizer, which marks continuations by `##`.

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
    """Masked ids and labels, both [S, L]; at least one token is selected, never a special one.

    Each word (or token) is selected independently with probability `fraction`. Replacements are
    drawn independently for each token.

    Args:
        ids, attended: `input_ids` and `attention_mask`, [S, L].
    """
    eligible = (attended == 1) & ~vocabulary.is_special[ids]
    units = (
        _words(ids, eligible, vocabulary) if whole_word else np.cumsum(eligible).reshape(ids.shape)
    )
    num_units = int(units.max(initial=0))
    is_selected = random.random(num_units + 1) < fraction
    is_selected[0] = False
    if num_units and not is_selected.any():
        is_selected[random.integers(1, num_units + 1)] = True
    selected = eligible & is_selected[units]
    labels = np.where(selected, ids, IGNORED)
    masked = ids.copy()
    masked[selected] = vocabulary.mask_id
    if replacement == "80/10/10":
        draw = random.random(ids.shape)
        ordinary = np.flatnonzero(~vocabulary.is_special)
        is_random = selected & (draw >= _MASKED) & (draw < _MASKED + _RANDOM)
        masked[is_random] = random.choice(ordinary, size=int(is_random.sum()))
        is_kept = selected & (draw >= _MASKED + _RANDOM)
        masked[is_kept] = ids[is_kept]
    return masked, labels


def _words(
    ids: NDArray[np.int64], eligible: NDArray[np.bool_], vocabulary: Vocabulary
) -> NDArray[np.int64]:
    """The number of each token's word [S, L], counted from 1 through all sentences."""
    follows = np.zeros_like(eligible)
    follows[:, 1:] = eligible[:, :-1]
    begins = eligible & ~(vocabulary.continues[ids] & follows)
    return np.cumsum(begins, dtype=np.int64).reshape(begins.shape)
