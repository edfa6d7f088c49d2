"""Masking: the asked share of the tokens, whole words whole, never a special token, seeded."""

import numpy as np
import pytest

from trainable.pretraining.masking import IGNORED, Vocabulary, mask

SIZE = 1000
VOCABULARY = Vocabulary(
    is_special=np.arange(SIZE) < 5,  # pad, unk, cls, sep, mask
    continues=np.arange(SIZE) >= 700,
    mask_id=4,
)


def _batch(seed: int = 0, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """[CLS] tokens [SEP] pad.., three in ten tokens going on with a word."""
    random = np.random.default_rng(seed)
    ids = random.integers(5, SIZE, (rows, 30))
    lengths = random.integers(4, 31, rows)
    columns = np.arange(30)
    attended = (columns < lengths[:, None]).astype(np.int64)
    ids[:, 0] = 2
    ids[columns == lengths[:, None] - 1] = 3
    return np.where(attended == 1, ids, 0), attended


def _mask(ids: np.ndarray, attended: np.ndarray, **settings: object):  # type: ignore[no-untyped-def]
    chosen: dict[str, object] = {"fraction": 0.15, "whole_word": True, "replacement": "80/10/10"}
    seed = settings.pop("seed", 0)
    random = np.random.default_rng(seed)
    return mask(ids, attended, VOCABULARY, random=random, **{**chosen, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize("fraction", [0.05, 0.15, 0.5])
def test_the_asked_share_is_masked_and_never_a_special_token(
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
    error = (fraction * (1 - fraction) / words) ** 0.5  # words are drawn, of more than one token
    assert abs(np.mean(shares) - fraction) < 4 * error * 1.5


def test_words_are_masked_whole() -> None:
    ids, attended = _batch()
    _, labels = _mask(ids, attended)
    chosen = labels != IGNORED
    ordinary = (attended == 1) & ~VOCABULARY.is_special[ids]
    goes_on = VOCABULARY.continues[ids][:, 1:] & ordinary[:, 1:] & ordinary[:, :-1]
    assert goes_on.sum() > 1000
    assert (chosen[:, 1:] == chosen[:, :-1])[goes_on].all()
    _, labels = _mask(ids, attended, whole_word=False)
    chosen = labels != IGNORED
    assert not (chosen[:, 1:] == chosen[:, :-1])[goes_on].all()


def test_eighty_ten_ten() -> None:
    ids, attended = _batch(rows=4000)
    masked, labels = _mask(ids, attended, fraction=0.5)
    chosen = labels != IGNORED
    count = chosen.sum()
    is_mask = (masked == VOCABULARY.mask_id)[chosen].mean()
    stays = (masked == ids)[chosen].mean()
    for share, expected in ((is_mask, 0.8), (stays, 0.1 + 0.1 / 995)):
        assert abs(share - expected) < 4 * (expected * (1 - expected) / count) ** 0.5
    replaced = masked[chosen & (masked != VOCABULARY.mask_id)]
    assert not VOCABULARY.is_special[replaced].any()


def test_replacement_by_the_mask_alone() -> None:
    ids, attended = _batch()
    masked, labels = _mask(ids, attended, replacement="mask")
    assert (masked[labels != IGNORED] == VOCABULARY.mask_id).all()


def test_same_seed_same_masks() -> None:
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
    from trainable.batches.tokenization import load_tokenizer

    tokenizer = load_tokenizer("minilm")
    vocabulary = Vocabulary.of(tokenizer)
    ids = tokenizer("unbelievable things")["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert [bool(vocabulary.continues[i]) for i in ids] == [t.startswith("##") for t in tokens]
    assert [bool(vocabulary.is_special[i]) for i in ids][0::1][:1] == [True]
    assert vocabulary.mask_id == tokenizer.mask_token_id
