"""Masking: the set fraction of tokens, whole words, no special tokens, seeded."""

import numpy as np
import pytest

from trainable.batches.tokenization import load_tokenizer
from trainable.pretraining.masking import IGNORED, Vocabulary, mask

SIZE = 1000
VOCABULARY = Vocabulary(
    is_special=np.arange(SIZE) < 5,  # pad, unk, cls, sep, mask
    continues=np.arange(SIZE) >= 700,
    mask_id=4,
)


def _batch(seed: int = 0, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Rows of [CLS] tokens [SEP] [PAD]...; three in ten tokens continue a word."""
    random = np.random.default_rng(seed)
    ids = random.integers(5, SIZE, (rows, 30))
    lengths = random.integers(4, 31, rows)
    columns = np.arange(30)
    attended = (columns < lengths[:, None]).astype(np.int64)
    ids[:, 0] = 2
    ids[columns == lengths[:, None] - 1] = 3
    return np.where(attended == 1, ids, 0), attended


def _mask(ids: np.ndarray, attended: np.ndarray, seed: int = 0, **settings: object):  # type: ignore[no-untyped-def]
    defaults = {"fraction": 0.15, "whole_word": True, "replacement": "80/10/10"}
    random = np.random.default_rng(seed)
    return mask(ids, attended, VOCABULARY, random=random, **{**defaults, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize("fraction", [0.05, 0.15, 0.5])
def test_the_set_fraction_is_masked_without_special_tokens(
    fraction: float, whole_word: bool
) -> None:
    shares, words = [], 0
    for seed in range(10):
        ids, attended = _batch(seed)
        masked, labels = _mask(ids, attended, fraction=fraction, whole_word=whole_word, seed=seed)
        chosen = labels != IGNORED
        ordinary = (attended == 1) & ~VOCABULARY.is_special[ids]
        assert not (chosen & ~ordinary).any()
        assert (masked[~chosen] == ids[~chosen]).all()
        assert (labels[chosen] == ids[chosen]).all()
        shares.append(chosen.sum() / ordinary.sum())
        words += int((ordinary & ~VOCABULARY.continues[ids]).sum())
    error = (fraction * (1 - fraction) / words) ** 0.5  # words, of one or more tokens, are drawn
    assert abs(np.mean(shares) - fraction) < 4 * error * 1.5


def test_whole_words_are_masked() -> None:
    ids, attended = _batch()
    _, labels = _mask(ids, attended)
    chosen = labels != IGNORED
    ordinary = (attended == 1) & ~VOCABULARY.is_special[ids]
    in_word = VOCABULARY.continues[ids][:, 1:] & ordinary[:, 1:] & ordinary[:, :-1]
    assert in_word.sum() > 1000
    assert (chosen[:, 1:] == chosen[:, :-1])[in_word].all()
    _, labels = _mask(ids, attended, whole_word=False)
    chosen = labels != IGNORED
    assert not (chosen[:, 1:] == chosen[:, :-1])[in_word].all()


def test_80_10_10_replaces_most_by_the_mask_and_keeps_some() -> None:
    ids, attended = _batch(rows=4000)
    masked, labels = _mask(ids, attended, fraction=0.5)
    chosen = labels != IGNORED
    count = chosen.sum()
    is_mask = (masked == VOCABULARY.mask_id)[chosen].mean()
    is_kept = (masked == ids)[chosen].mean()
    for share, expected in ((is_mask, 0.8), (is_kept, 0.1 + 0.1 / 995)):
        assert abs(share - expected) < 4 * (expected * (1 - expected) / count) ** 0.5
    replaced = masked[chosen & (masked != VOCABULARY.mask_id)]
    assert not VOCABULARY.is_special[replaced].any()


def test_all_chosen_tokens_can_be_replaced_by_the_mask() -> None:
    ids, attended = _batch()
    masked, labels = _mask(ids, attended, replacement="mask")
    assert (masked[labels != IGNORED] == VOCABULARY.mask_id).all()


def test_masks_depend_on_the_seed() -> None:
    ids, attended = _batch()
    one, two, other = (_mask(ids, attended, seed=seed)[0] for seed in (1, 1, 2))
    assert (one == two).all()
    assert (one != other).any()


def test_at_least_one_token_is_chosen() -> None:
    ids, attended = np.array([[2, 9, 3]]), np.ones((1, 3), np.int64)
    for seed in range(20):
        _, labels = _mask(ids, attended, fraction=0.01, seed=seed)
        assert labels.tolist() == [[IGNORED, 9, IGNORED]]


def test_the_vocabulary_of_a_wordpiece_tokenizer() -> None:
    tokenizer = load_tokenizer("minilm")
    vocabulary = Vocabulary.of(tokenizer)
    ids = tokenizer("unbelievable things")["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert [bool(vocabulary.continues[i]) for i in ids] == [t.startswith("##") for t in tokens]
    assert vocabulary.is_special[ids].tolist() == [True, *[False] * (len(ids) - 2), True]
    assert vocabulary.mask_id == tokenizer.mask_token_id
