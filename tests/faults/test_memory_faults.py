"""R17: a device's memory runs out in training steps."""

from pathlib import Path

import pytest
import torch
from fault_table import Table
from tiny_trials import config_of, learner_of, run
from torch import Tensor

from trainable.batches.collate import Batch
from trainable.batches.packing import Packed
from trainable.batches.sampler import Step
from trainable.model.heads import HeadOutput
from trainable.model.multitask import MultitaskBert
from trainable.storage.trial_folder import TrialFolder

NO_RANDOMNESS = ("model.encoder_dropout=0", "model.head_dropout=0", "loss.simcse.enabled=false")
LIMITS = (12, 6, 3)
"""The numbers of sentences that fit; the next one applies after each out-of-memory error."""


@pytest.mark.promise(
    "R17",
    "a device's memory runs out in a step, three times in a trial (tiny BERT; raised)",
    "fewer sentences at a time, batches and in-batch negatives whole, on record; losses and scores "
    "those of an undisturbed trial, up to rounding",
)
def test_r17_out_of_memory_errors_do_not_change_results(
    tiny_encoder: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: Table,
) -> None:
    config = config_of(tiny_encoder, tiny_data, *NO_RANDOMNESS, "optim.lr=1e-4")
    run(config, tmp_path / "undisturbed", tmp_path)
    limits, plain = list(LIMITS), MultitaskBert.embed
    negatives: list[int] = []
    raised: list[int] = []

    def embed(self: MultitaskBert, packed: Packed, noise: Tensor | None = None) -> Tensor:
        num_sentences = len(packed.lengths)
        if self.training and limits and num_sentences > limits[0] and len(negatives) % 7 == 0:
            raised.append(limits.pop(0))
            raise torch.OutOfMemoryError("as if")
        return plain(self, packed, noise)

    def forward(self: MultitaskBert, batch: Batch, noise: Tensor | None = None) -> HeadOutput:
        output = plain_forward(self, batch, noise)
        negatives.append(len(output.embeddings[0]))
        return output

    plain_forward = MultitaskBert.forward
    monkeypatch.setattr(MultitaskBert, "embed", embed)
    monkeypatch.setattr(MultitaskBert, "forward", forward)
    run(config, tmp_path / "t", tmp_path)
    undisturbed, found = (TrialFolder(tmp_path / n).epochs() for n in ("undisturbed", "t"))
    table.played(len(raised))
    assert raised == list(LIMITS)
    assert set(negatives) == {8}  # every batch of every task is complete
    flags = [flag for record in found for flag in record.flags if "out of memory" in flag]
    assert len(flags) == len(LIMITS)
    for record, expected in zip(found, undisturbed, strict=True):
        assert record.metrics == pytest.approx(expected.metrics, rel=1e-3, abs=1e-3)


def test_r17_the_micro_batch_size_never_grows(
    tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is half of the last size that did not fit."""
    learner = learner_of(config_of(tiny_encoder, tiny_data, "loss.simcse.enabled=false"))
    plain, limit = MultitaskBert.embed, 16

    def embed(self: MultitaskBert, packed: Packed, noise: Tensor | None = None) -> Tensor:
        if len(packed.lengths) > limit:
            raise torch.OutOfMemoryError("as if")
        return plain(self, packed, noise)

    monkeypatch.setattr(MultitaskBert, "embed", embed)
    sizes: list[int | None] = []
    for number, limit in enumerate((16, 8, 2, 8, 1)):  # noqa: B007 - read by `embed`
        (batch,) = learner.batches([Step("similarity", torch.arange(8).numpy())], 1)
        learner.step(batch, 1, number)
        sizes.append(learner.model.micro_batch_size)
    assert sizes == [None, 8, 2, 2, 1]
    assert len(learner.notes) == 1 + 2 + 1
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        learner.step(batch, 1, 5)
