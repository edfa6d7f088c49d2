"""Parameter groups: weight decay and learning rates."""

from pathlib import Path

import pytest
from tiny_trials import config_of

from trainable.config.sections import Optim
from trainable.model.multitask import MultitaskBert, build_model
from trainable.training.optimizer import build_optimizer, set_rate


def _model(encoder: Path, data: Path) -> MultitaskBert:
    return build_model(config_of(encoder, data, "model.head_dropout=0"))


def test_only_matrices_have_weight_decay(tiny_encoder: Path, tiny_data: Path) -> None:
    model = _model(tiny_encoder, tiny_data)
    matrices, vectors = build_optimizer(model, Optim(weight_decay=0.1, eps=1e-4)).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {parameter.ndim >= 2 for parameter in matrices["params"]} == {True}
    assert {parameter.ndim >= 2 for parameter in vectors["params"]} == {False}
    assert (matrices["eps"], vectors["eps"]) == (1e-4, 1e-4)
    count = len(matrices["params"]) + len(vectors["params"])
    assert count == len(list(model.parameters()))


def test_rates_decrease_from_the_heads_to_the_embeddings(
    tiny_encoder: Path, tiny_data: Path
) -> None:
    model = _model(tiny_encoder, tiny_data)
    optimizer = build_optimizer(model, Optim(head_lr_factor=3.0, layer_decay=0.5))
    set_rate(optimizer, 1e-2)
    rates = {
        id(parameter): group["lr"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    num_layers = model.encoder.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        expected = 3e-2
        if name.startswith("encoder.encoder.layer."):
            expected = 1e-2 * 0.5 ** (num_layers - 1 - int(name.split(".")[3]))
        elif name.startswith("encoder.embeddings."):
            expected = 1e-2 * 0.5**num_layers
        elif name.startswith("encoder."):  # the pooler
            expected = 1e-2
        assert rates[id(parameter)] == pytest.approx(expected), name


def test_heads_on_a_frozen_encoder_have_the_full_rate(tiny_encoder: Path, tiny_data: Path) -> None:
    model = _model(tiny_encoder, tiny_data)
    model.freeze_encoder(True)
    groups = build_optimizer(model, Optim(head_lr_factor=3.0, layer_decay=0.5)).param_groups
    assert [group["lr_scale"] for group in groups] == [1.0, 1.0]
