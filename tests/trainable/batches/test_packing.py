"""Packed batches give the results of padded batches, compared in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, RobertaConfig, RobertaModel

from trainable.batches.packing import Packed, pack
from trainable.model.encoder import embed, load_pretrained, takes_rows
from trainable.model.kernels.attention import by_length, nested

LENGTHS = np.array([7, 3, 9, 3, 5, 7, 1])
POOLINGS = ("pooler", "cls", "mean")


def _flat(lengths: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(5, 40, lengths.sum()).astype(np.int32)


def _packed(lengths: np.ndarray = LENGTHS) -> Packed:
    return pack(_flat(lengths), np.cumsum(lengths) - lengths, lengths)


def _padded(lengths: np.ndarray = LENGTHS, pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids and mask as a tokenizer pads them, in the order of `lengths`."""
    sentences = np.split(_flat(lengths), np.cumsum(lengths)[:-1])
    mask = torch.tensor([[1] * n + [0] * (max(lengths) - n) for n in lengths])
    rows = [[*map(int, s)] + [pad_id] * (max(lengths) - len(s)) for s in sentences]
    return torch.tensor(rows), mask


def _expected(encoder: nn.Module, pooling: str, ids: Tensor, mask: Tensor) -> Tensor:
    """The embeddings by transformers' forward pass and the definition of the pooling."""
    states = encoder(input_ids=ids, attention_mask=mask)
    if pooling == "pooler":
        return states.pooler_output
    if pooling == "cls":
        return states.last_hidden_state[:, 0]
    weights = mask[:, :, None]
    return (states.last_hidden_state * weights).sum(1) / weights.sum(1)


def _eager(folder: Path) -> nn.Module:
    return AutoModel.from_pretrained(folder, attn_implementation="eager").eval().double()


def test_packing_sorts_the_sentences_by_length() -> None:
    packed = _packed()
    assert packed.lengths.tolist() == sorted(LENGTHS)
    assert packed.groups == [(1, 1), (2, 3), (1, 5), (2, 7), (1, 9)]
    sentences = np.split(_flat(LENGTHS), np.cumsum(LENGTHS)[:-1])
    for number, place in enumerate(packed.inverse_order.tolist()):
        first, last = packed.offsets[place], packed.offsets[place + 1]
        assert packed.input_ids[first:last].tolist() == sentences[number].tolist()
        assert packed.positions[first:last].tolist() == list(range(LENGTHS[number]))
        assert packed.order[place] == number
        assert set(packed.sentences[first:last].tolist()) == {place}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_splitting_keeps_all_tokens_in_order(size: int) -> None:
    packed = _packed()
    parts = list(packed.split(size))
    assert [len(part.lengths) for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert torch.cat([part.input_ids for part in parts]).tolist() == packed.input_ids.tolist()
    assert torch.cat([part.order for part in parts]).tolist() == packed.order.tolist()
    for part in parts:
        assert part.offsets[0] == 0
        assert part.offsets[-1] == len(part.input_ids)
        assert part.sentences.max() == len(part.lengths) - 1


def test_a_packed_batch_can_be_padded() -> None:
    packed = _packed()
    ids, mask = packed.pad(0)
    expected_ids, expected_mask = _padded()
    assert torch.equal(ids[packed.inverse_order], expected_ids)
    assert torch.equal(mask[packed.inverse_order], expected_mask)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_embeddings_and_gradients_equal_those_of_the_padded_batch(
    tiny_encoder: Path, pooling: str
) -> None:
    ours = load_pretrained(str(tiny_encoder), None, 0.0, "pooler").double()
    theirs = _eager(tiny_encoder)
    assert takes_rows(ours)
    found = embed(ours, _packed(), pooling)
    expected = _expected(theirs, pooling, *_padded())
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    for e in (found, expected):
        (e * weights).sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        if gradients[name] is not None:
            scale = max(1.0, float(gradients[name].abs().max()))
            assert torch.allclose(parameter.grad, gradients[name], rtol=0, atol=1e-10 * scale), name


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_encoder_without_support_for_packing_is_given_padding(pooling: str) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
    config = RobertaConfig(num_attention_heads=2, pad_token_id=1, **sizes)
    roberta = RobertaModel(config).eval().double()
    assert not takes_rows(roberta)
    expected = _expected(roberta, pooling, *_padded(pad_id=1))
    assert torch.allclose(embed(roberta, _packed(), pooling), expected, rtol=0, atol=1e-10)


def test_noise_is_added_to_its_token_with_and_without_packing(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_pretrained(str(tiny_encoder), None, 0.0, "pooler").eval().double()
    torch.manual_seed(0)
    noise = torch.randn(len(LENGTHS), max(LENGTHS), encoder.config.hidden_size).double()
    handle = encoder.embeddings.register_forward_hook(lambda module, inputs, out: out + noise)
    expected = _expected(encoder, "mean", *_padded())
    handle.remove()
    found = embed(encoder, _packed(), "mean", noise)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)
    assert not torch.allclose(found, embed(encoder, _packed(), "mean"), atol=1e-2)
    monkeypatch.setattr("trainable.model.encoder.takes_rows", lambda encoder: False)
    assert torch.allclose(embed(encoder, _packed(), "mean", noise), expected, rtol=0, atol=1e-10)


def test_sentences_do_not_attend_to_each_other(tiny_encoder: Path) -> None:
    encoder = load_pretrained(str(tiny_encoder), None, 0.0, "pooler").eval().double()
    together = embed(encoder, _packed(), "mean")
    sentences = np.split(_flat(LENGTHS), np.cumsum(LENGTHS)[:-1])
    for number, sentence in enumerate(sentences):
        alone = pack(sentence, np.zeros(1, np.int64), np.array([len(sentence)]))
        assert torch.allclose(
            embed(encoder, alone, "mean")[0], together[number], rtol=0, atol=1e-10
        )


def test_nested_attention_equals_attention_by_length() -> None:
    torch.manual_seed(0)
    packed = _packed()
    row = [
        torch.randn(int(LENGTHS.sum()), 2, 8, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    ]
    one, other = (attend(*row, packed, 0.0, 0.3) for attend in (by_length, nested))
    assert torch.allclose(one, other, rtol=0, atol=1e-10)
    weights = torch.randn_like(one)
    for a, b in zip(
        torch.autograd.grad((one * weights).sum(), row),
        torch.autograd.grad((other * weights).sum(), row),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)


def test_packed_batches_have_dropout(tiny_encoder: Path) -> None:
    encoder = load_pretrained(str(tiny_encoder), None, 0.5, "pooler").train()
    one, other = (embed(encoder, _packed(), "mean") for _ in range(2))
    assert not torch.allclose(one, other, atol=1e-3)
