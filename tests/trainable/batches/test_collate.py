"""Sentences and targets of a batch: sides, the second view of SimCSE, hard negatives."""

import numpy as np
import pytest
import torch

from trainable.batches.collate import Batch, collate
from trainable.batches.sampler import Step
from trainable.batches.tokenization import Encoded, Tokens
from trainable.config.loss_sections import Loss, SimCSE

NUM = 6
ROWS = np.array([4, 0, 5, 2])


def _encoded(num_sides: int, has_negative: list[bool] | None = None) -> Encoded:
    """Encoded sentences; sentence k is the single token 100 + k."""
    count = NUM * (num_sides + (has_negative is not None))
    tokens = Tokens(np.arange(100, 100 + count, dtype=np.int32), np.arange(count + 1), 0)
    given = None if has_negative is None else np.array(has_negative)
    return Encoded(tokens, NUM, num_sides, torch.arange(NUM) / 2, given)


def _batch(encoded: Encoded, loss: Loss, number: int = 0, **settings: torch.Tensor) -> Batch:
    return collate(Step("similarity", ROWS), encoded, None, loss, (0, 1, number), **settings)


def test_sides_are_concatenated() -> None:
    batch = _batch(_encoded(2), Loss())
    assert batch.sentences.tolist() == [4, 0, 5, 2, 10, 6, 11, 8]
    assert (batch.sizes, batch.num_negatives, batch.view_of) == ((4, 4), 0, None)
    assert batch.labels is not None
    assert batch.labels.tolist() == [2.0, 0.0, 2.5, 1.0]
    assert batch.packed is not None
    assert batch.packed.input_ids[batch.packed.inverse_order].tolist() == [
        100 + number for number in batch.sentences
    ]


@pytest.mark.parametrize("num_sides", [1, 2])
def test_the_second_view_repeats_one_sentence_of_each_row(num_sides: int) -> None:
    loss = Loss(simcse=SimCSE(enabled=True))
    drawn = []
    for number in range(20):
        batch = _batch(_encoded(num_sides), loss, number)
        *own, view = batch.sentences.reshape(num_sides + 1, 4)
        assert batch.sizes == (4,) * (num_sides + 1)
        assert batch.view_of is not None
        for row, side in enumerate(batch.view_of.tolist()):
            assert view[row] == own[side][row] == ROWS[row] + side * NUM
        drawn.append(batch.view_of.tolist())
        again = _batch(_encoded(num_sides), loss, number)
        assert again.sentences.tolist() == batch.sentences.tolist()
    assert {side for draw in drawn for side in draw} == set(range(num_sides))
    assert (len(set(map(tuple, drawn))) > 1) is (num_sides == 2)


def test_a_task_without_simcse_has_no_second_view() -> None:
    loss = Loss(simcse=SimCSE(enabled=True, tasks=("sentiment",)))
    assert _batch(_encoded(2), loss).view_of is None


def test_hard_negatives_are_the_last_side() -> None:
    encoded = _encoded(2, [True, False, True, False, False, True])
    batch = _batch(encoded, Loss(simcse=SimCSE(enabled=True)))
    assert batch.sizes == (4, 4, 4, 3)
    assert batch.num_negatives == 3
    assert batch.sentences[-3:].tolist() == [12 + 0, 12 + 5, 12 + 2]


def test_cached_embeddings_replace_tokens() -> None:
    embeddings = torch.arange(12.0)[:, None] * torch.ones(3)
    batch = _batch(_encoded(2), Loss(), embeddings=embeddings)
    assert batch.packed is None
    assert batch.embeddings is not None
    assert batch.embeddings[:, 0].tolist() == batch.sentences.tolist()


def test_soft_labels_are_those_of_the_rows() -> None:
    soft = torch.arange(NUM) * 10.0
    batch = collate(Step("similarity", ROWS), _encoded(2), soft, Loss(), (0, 1, 0))
    assert batch.soft_labels is not None
    assert batch.soft_labels.tolist() == [40.0, 0.0, 50.0, 20.0]
