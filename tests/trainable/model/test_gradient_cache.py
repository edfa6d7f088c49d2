"""Micro-batches give the loss and gradients of the whole batch."""

from pathlib import Path

import pytest
import torch
from tiny_trials import EVERY_LOSS, NO_DROPOUT, config_of, learner_of, loss_and_gradients
from torch import Tensor

from trainable.batches.packing import Packed
from trainable.model.multitask import MultitaskBert

TASKS = ("sentiment", "paraphrase", "similarity")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [1, 5])
def test_micro_batches_give_the_loss_and_gradients_of_the_whole_batch(
    tiny_encoder: Path, tiny_data: Path, task: str, size: int
) -> None:
    config = config_of(tiny_encoder, tiny_data, *NO_DROPOUT, *EVERY_LOSS)
    whole, expected = loss_and_gradients(learner_of(config), task)
    config = config.model_copy(
        update={"batching": config.batching.model_copy(update={"micro_batch_size": size})}
    )
    loss, found = loss_and_gradients(learner_of(config), task)
    assert loss == pytest.approx(whole, rel=1e-9)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        scale = max(1.0, float(expected[name].abs().max()))
        assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-9 * scale), name


def test_the_second_pass_repeats_the_dropout_masks_of_the_first(
    tiny_encoder: Path, tiny_data: Path
) -> None:
    """In float64, the gradient predicts how the loss changes along it."""
    config = config_of(
        *(tiny_encoder, tiny_data, "model.encoder_dropout=0.4", "model.head_dropout=0"),
        *("batching.micro_batch_size=3", "loss.simcse.enabled=false"),
    )
    learner = learner_of(config)
    weight = learner.model.encoder.encoder.layer[0].output.dense.weight
    loss, gradients = loss_and_gradients(learner, "similarity")
    learner.optimizer.zero_grad()
    slope = gradients["encoder.encoder.layer.0.output.dense.weight"]
    direction, length = slope / slope.norm(), 1e-5
    with torch.no_grad():
        weight += length * direction
    after, _ = loss_and_gradients(learner, "similarity")
    assert (after - loss) / length == pytest.approx(float(slope.norm()), rel=1e-2)


def test_evaluation_that_runs_out_of_memory_uses_smaller_batches(
    tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(config_of(tiny_encoder, tiny_data))
    expected = learner.dev_outputs()
    plain = MultitaskBert.embed

    def embed(self: MultitaskBert, packed: Packed, noise: Tensor | None = None) -> Tensor:
        if len(packed.lengths) > 5:
            raise torch.OutOfMemoryError("as if")
        return plain(self, packed, noise)

    monkeypatch.setattr(MultitaskBert, "embed", embed)
    for name, outputs in learner.dev_outputs().items():
        assert outputs == pytest.approx(expected[name], abs=1e-5)
