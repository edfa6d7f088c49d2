"""Tokenization: tokenizers are not changed, equal sentences are recognized."""

from pathlib import Path

from trainable.batches.tokenization import load_tokenizer, tokenise


def test_tokenizing_does_not_change_the_tokenizer(tiny_encoder: Path) -> None:
    tokenizer = load_tokenizer(tiny_encoder)
    before = tokenizer.backend_tokenizer.to_str()
    tokens = tokenise(["a warm film", "a film that is slow and dull"], tokenizer, max_length=5)
    assert tokens.lengths.tolist() == [5, 5]
    assert tokenizer.backend_tokenizer.to_str() == before


def test_sentences_with_the_same_tokens_have_the_same_id(tiny_encoder: Path) -> None:
    tokenizer = load_tokenizer(tiny_encoder)
    texts = ["a warm film", "a film", "a warm film", "a", "a film"]
    ids = tokenise(texts, tokenizer, max_length=9).distinct_ids()
    assert ids.tolist() == [0, 1, 0, 2, 1]
