"""Steps in parts: the same loss and gradients, the same negatives, and what is noted of it."""

from pathlib import Path

import pytest
import torch
from tiny_trials import config_of, learner_of
from torch import Tensor

from trainable.batches.packing import Packed
from trainable.batches.sampler import Step
from trainable.model.multitask import MultitaskBert
from trainable.training.learner import Learner

TASKS = ("sentiment", "paraphrase", "similarity")
NO_DROPOUT = ("model.encoder_dropout=0", "model.head_dropout=0", "loss.simcse.enabled=false")
EVERY_LOSS = ("loss.mnr.tasks=[paraphrase, similarity]", "loss.smart.enabled=true")


def _loss_and_gradients(learner: Learner, task: str) -> tuple[float, dict[str, Tensor]]:
    """Of a step on the task's first eight examples that updates no weight."""
    learner.model.double()  # so that two ways to one number can be compared
    (batch,) = learner.batches([Step(task, torch.arange(8).numpy())], 1)
    torch.manual_seed(5)
    gradients: dict[str, Tensor] = {}

    def note() -> None:
        named = learner.model.named_parameters()
        gradients.update({name: p.grad.clone() for name, p in named if p.grad is not None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner.optimizer, "step", note)
        loss = float(learner.step(batch, 1, 0))
    return loss, gradients


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [1, 5])
def test_parts_give_the_loss_and_gradients_of_the_whole(
    tiny_encoder: Path, tiny_data: Path, task: str, size: int
) -> None:
    config = config_of(tiny_encoder, tiny_data, *NO_DROPOUT, *EVERY_LOSS)
    whole, expected = _loss_and_gradients(learner_of(config), task)
    parts = config_of(
        *(tiny_encoder, tiny_data, *NO_DROPOUT, *EVERY_LOSS),
        f"batching.micro_batch_size={size}",
    )
    loss, found = _loss_and_gradients(learner_of(parts), task)
    assert loss == pytest.approx(whole, rel=1e-9)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        scale = max(1.0, float(expected[name].abs().max()))
        assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-9 * scale), name


def test_the_second_pass_has_the_dropout_masks_of_the_first(
    tiny_encoder: Path, tiny_data: Path
) -> None:
    """In float64 a step's gradient is the slope of the loss that it was taken of."""
    config = config_of(
        *(tiny_encoder, tiny_data, "model.encoder_dropout=0.4", "model.head_dropout=0"),
        *("batching.micro_batch_size=3", "loss.simcse.enabled=false"),
    )
    learner = learner_of(config)
    weight = learner.model.encoder.encoder.layer[0].output.dense.weight
    loss, gradients = _loss_and_gradients(learner, "similarity")
    learner.optimizer.zero_grad()
    slope = gradients["encoder.encoder.layer.0.output.dense.weight"]
    direction, length = slope / slope.norm(), 1e-5
    with torch.no_grad():
        weight += length * direction
    after, _ = _loss_and_gradients(learner, "similarity")
    assert (after - loss) / length == pytest.approx(float(slope.norm()), rel=1e-2)


def test_evaluation_that_does_not_fit_goes_on_with_less(
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
