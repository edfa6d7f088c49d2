"""A step that runs out of memory is repeated with micro-batches."""

from pathlib import Path

import pytest
import torch
from learners import new_batch, new_learner
from stops import stop_at
from tiny_trials import EVERY_LOSS, NO_DROPOUT, config_of, learner_of, loss_and_gradients, run
from torch import Tensor

from mlflow_setup.schema import Outcome
from trainable.batches.packing import Packed
from trainable.model.multitask import MultitaskBert
from trainable.storage.trial_folder import TrialFolder


def _limit_memory(monkeypatch: pytest.MonkeyPatch, limit: int) -> list[int]:
    """Make training run out of memory with more than `limit` sentences. Returns the numbers of
    sentences that were tried."""
    plain, given = MultitaskBert.embed, []

    def embed(self: MultitaskBert, packed: Packed, noise: Tensor | None = None) -> Tensor:
        given.append(len(packed.lengths))
        if self.training and len(packed.lengths) > limit:
            raise torch.OutOfMemoryError("as if")
        return plain(self, packed, noise)

    monkeypatch.setattr(MultitaskBert, "embed", embed)
    return given


@pytest.mark.parametrize(("limit", "expected"), [(12, 8), (7, 4), (1, 1)])
def test_the_micro_batch_is_halved_until_it_fits_with_the_same_loss(
    tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, limit: int, expected: int
) -> None:
    config = config_of(tiny_encoder, tiny_data, *NO_DROPOUT, *EVERY_LOSS)
    whole, gradients = loss_and_gradients(learner_of(config), "similarity")
    learner = learner_of(config)
    learner.model.train()
    given = _limit_memory(monkeypatch, limit)
    loss, found = loss_and_gradients(learner, "similarity")
    assert learner.model.micro_batch_size == expected
    assert given[0] == 16
    assert loss == pytest.approx(whole, rel=1e-9)
    for name, gradient in found.items():
        scale = max(1.0, float(gradients[name].abs().max()))
        assert torch.allclose(gradient, gradients[name], rtol=0, atol=1e-9 * scale), name


def test_a_single_sentence_that_does_not_fit_is_an_error(
    tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(config_of(tiny_encoder, tiny_data))
    _limit_memory(monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError, match="as if"):
        loss_and_gradients(learner, "sentiment")


def test_the_micro_batch_size_is_recorded_and_resumed(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_encoder, tiny_data)
    _limit_memory(monkeypatch, 6)
    stopped = run(config, tmp_path / "t", tmp_path, stop=stop_at(4))
    assert stopped.outcome is Outcome.STOPPED
    given = _limit_memory(monkeypatch, 100)  # more would fit now
    run(config, tmp_path / "t", tmp_path)
    assert max(given[:3]) <= 6
    first, second = TrialFolder(tmp_path / "t").epochs()
    (flag, *_) = [flag for flag in first.flags if "out of memory" in flag]
    assert "epoch 1, step" in flag
    assert not [flag for flag in second.flags if "out of memory" in flag]


def test_a_repeated_step_has_the_same_dropout_masks(
    tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is that of micro-batches from the start."""
    dropout = ("model.encoder_dropout=0.3", "loss.simcse.enabled=false")
    halved = learner_of(config_of(tiny_encoder, tiny_data, *dropout, "batching.micro_batch_size=8"))
    expected, _ = loss_and_gradients(halved, "similarity")
    learner = learner_of(config_of(tiny_encoder, tiny_data, *dropout))
    _limit_memory(monkeypatch, 8)
    found, _ = loss_and_gradients(learner, "similarity")
    assert learner.model.micro_batch_size == 8
    assert found == pytest.approx(expected, rel=1e-9)
    (note,) = learner.notes
    assert note == (
        "out of memory in epoch 1, step 1: the encoder now gets 8 sentences at a time; batches and "
        "in-batch negatives do not change"
    )


def test_a_batch_below_the_micro_batch_size_is_halved(
    tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(config_of(tiny_encoder, tiny_data, "batching.micro_batch_size=32"))
    given = _limit_memory(monkeypatch, 12)  # less than before, as if another process uses memory
    loss_and_gradients(learner, "similarity")
    num_sentences = given[0]
    assert num_sentences < 32
    assert max(given[1:]) == learner.model.micro_batch_size == num_sentences // 2


def test_an_optimizer_that_runs_out_of_memory_is_an_error(
    tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = new_learner(tiny_encoder, tiny_data)

    def fail() -> None:
        raise torch.OutOfMemoryError("as if")

    monkeypatch.setattr(learner.optimizer, "step", fail)
    with pytest.raises(torch.OutOfMemoryError):
        learner.step(new_batch(learner, "sentiment"), 1, 0)
    assert learner.model.micro_batch_size is None
