"""Embeddings without gradients: correct, and computed once per distinct sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch

from trainable.batches.tokenization import load_tokenizer, tokenise
from trainable.config.parse import from_flat
from trainable.evaluation.inference import embeddings_of
from trainable.model.multitask import build_model

TEXTS = ["a warm film", "a dull film that is slow", "a warm film", "slow", "a dull film"]
NUM_DISTINCT = 4


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_each_distinct_sentence_is_embedded_once(tiny_encoder: Path, batch_size: int) -> None:
    model = build_model(from_flat({"model.encoder": str(tiny_encoder)}))
    tokens = tokenise(TEXTS, load_tokenizer(tiny_encoder), model.max_length)
    seen: list[int] = []
    model.encoder.embeddings.register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape[1])
    )
    found = embeddings_of(model, tokens, batch_size, torch.float32)
    assert sum(seen) == tokens.lengths[[0, 1, 3, 4]].sum()
    assert len(seen) == -(-NUM_DISTINCT // batch_size)
    assert torch.equal(found[0], found[2])
    with torch.inference_mode():
        for row in range(len(TEXTS)):
            alone = model.eval().embed(tokens.pack(np.array([row])))[0]
            assert torch.allclose(found[row], alone, atol=1e-5)
