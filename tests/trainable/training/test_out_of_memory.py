"""A step that does not fit into the memory is taken in parts."""

from pathlib import Path

import pytest
import torch
from learners import new_batch, new_learner
from tiny_trials import EVERY_LOSS, NO_DROPOUT, config_of, learner_of, loss_and_gradients, run
from torch import Tensor

from mlflow_setup.schema import Outcome
from trainable.batches.packing import Packed
from trainable.model.multitask import MultitaskBert
from trainable.storage.trial_folder import TrialFolder


def _fails_above(monkeypatch: pytest.MonkeyPatch, limit: int) -> list[int]:
    """An encoder whose memory holds so many sentences; returns what it was given."""
    plain, given = MultitaskBert.embed, []

    def embed(self: MultitaskBert, packed: Packed, noise: Tensor | None = None) -> Tensor:
        given.append(len(packed.lengths))
        if self.training and len(packed.lengths) > limit:
            raise torch.OutOfMemoryError("as if")
        return plain(self, packed, noise)

    monkeypatch.setattr(MultitaskBert, "embed", embed)
    return given


@pytest.mark.parametrize(("limit", "expected"), [(12, 12), (7, 6), (1, 1)])
def test_a_step_that_does_not_fit_is_taken_in_halves_with_all_its_negatives(
    tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, limit: int, expected: int
) -> None:
    config = config_of(tiny_encoder, tiny_data, *NO_DROPOUT, *EVERY_LOSS)
    whole, gradients = loss_and_gradients(learner_of(config), "similarity")
    learner = learner_of(config)
    learner.model.train()
    given = _fails_above(monkeypatch, limit)
    loss, found = loss_and_gradients(learner, "similarity")
    assert learner.model.micro_batch_size is not None
    assert learner.model.micro_batch_size <= limit
    assert given[0] == 16
    assert loss == pytest.approx(whole, rel=1e-9)
    for name, gradient in found.items():
        scale = max(1.0, float(gradients[name].abs().max()))
        assert torch.allclose(gradient, gradients[name], rtol=0, atol=1e-9 * scale), name


def test_one_sentence_that_does_not_fit_is_an_error(
    tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(config_of(tiny_encoder, tiny_data))
    _fails_above(monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError, match="as if"):
        loss_and_gradients(learner, "sentiment")


def test_what_did_not_fit_is_on_record_and_known_after_a_stop(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_encoder, tiny_data)
    _fails_above(monkeypatch, 6)
    asked = iter([False, False, False, True])
    stopped = run(config, tmp_path / "t", tmp_path, stop=lambda: next(asked))
    assert stopped.outcome is Outcome.STOPPED
    given = _fails_above(monkeypatch, 100)  # there is more room, and no need to find out
    run(config, tmp_path / "t", tmp_path)
    assert max(given[:3]) <= 6
    first, second = TrialFolder(tmp_path / "t").epochs()
    (flag, *_) = [flag for flag in first.flags if "out of memory" in flag]
    assert "epoch 1, step" in flag
    assert not [flag for flag in second.flags if "out of memory" in flag]


def test_a_step_that_did_not_fit_draws_its_dropout_masks_again(
    tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts from the start, or after a failure: the same masks, the same loss."""
    dropped = ("model.encoder_dropout=0.3", "loss.simcse.enabled=false")
    parts = learner_of(config_of(tiny_encoder, tiny_data, *dropped, "batching.micro_batch_size=8"))
    expected, _ = loss_and_gradients(parts, "similarity")
    learner = learner_of(config_of(tiny_encoder, tiny_data, *dropped))
    _fails_above(monkeypatch, 8)
    found, _ = loss_and_gradients(learner, "similarity")
    assert learner.model.micro_batch_size == 8
    assert found == pytest.approx(expected, rel=1e-9)
    (note,) = learner.notes
    assert note == (
        "out of memory in epoch 1, step 1: the encoder now gets 8 sentences at a time; batches and "
        "in-batch negatives do not change"
    )


def test_half_is_of_the_batch_where_that_is_smaller_than_what_fits_so_far(
    tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(config_of(tiny_encoder, tiny_data, "batching.micro_batch_size=32"))
    given = _fails_above(monkeypatch, 12)  # another process has taken memory since
    loss_and_gradients(learner, "similarity")
    num_sentences = given[0]
    assert num_sentences < 32
    assert max(given[1:]) == learner.model.micro_batch_size == num_sentences // 2


def test_where_the_optimizer_runs_out_of_memory_fewer_sentences_would_not_help(
    tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = new_learner(tiny_encoder, tiny_data)

    def fail() -> None:
        raise torch.OutOfMemoryError("as if")

    monkeypatch.setattr(learner.optimizer, "step", fail)
    with pytest.raises(torch.OutOfMemoryError):
        learner.step(new_batch(learner, "sentiment"), 1, 0)
    assert learner.model.micro_batch_size is None
