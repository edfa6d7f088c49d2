"""The last layer, computed for chosen tokens only, gives the states of the whole layer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from trainable.batches.tokenization import load_tokenizer, tokenise
from trainable.model.encoder import load_pretrained, token_states

TEXTS = ["a warm film", "slow", "a dull film that is very slow", "a good cast and a bad plot"]


@pytest.mark.parametrize(
    ("sentences", "positions"),
    [([0], [0]), ([2, 0, 0, 3], [6, 1, 4, 2]), ([1, 1, 1], [0, 1, 2])],
)
def test_chosen_tokens_have_the_states_of_the_whole_layer(
    tiny_encoder: Path, sentences: list[int], positions: list[int]
) -> None:
    encoder = load_pretrained(str(tiny_encoder), None, 0.0, "cls").double().eval()
    tokens = tokenise(TEXTS, load_tokenizer(tiny_encoder), 32)
    ids, attended = (torch.from_numpy(part) for part in tokens.pad(np.arange(len(TEXTS))))
    whole = encoder(input_ids=ids, attention_mask=attended).last_hidden_state
    packed = tokens.pack(np.arange(len(TEXTS)))
    chosen = packed.row_index(np.array(sentences), np.array(positions))
    assert torch.equal(packed.input_ids[chosen], ids[sentences, positions])
    seen: list[int] = []
    encoder.encoder.layer[-1].intermediate.register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape[-2])
    )
    found = token_states(encoder, packed, chosen)
    assert seen == [len(sentences)]  # only these tokens are computed
    torch.testing.assert_close(found, whole[sentences, positions], rtol=1e-9, atol=1e-9)
    one, other = (
        torch.autograd.grad(states.square().sum(), list(encoder.encoder.parameters()))
        for states in (found, whole[sentences, positions])
    )
    for ours, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
