"""Runs with predictions that are damaged or of other data are rejected."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pools import TASKS, Store, assert_same, only_rejection

from trainable.config.tasks import Kind
from trainable.storage.predictions import read_predictions, write_predictions


def truncate(path: Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content))])


def change_rows(path: Path, rows: np.ndarray) -> None:
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array(rows)), path)


def rows_of_a_task(rng: np.random.Generator) -> np.ndarray:
    """Rows of a random task in an epoch's file."""
    return np.arange(60) + 60 * rng.integers(len(TASKS))


def drop_row(path: Path, rng: np.random.Generator) -> None:
    change_rows(path, np.delete(np.arange(60 * len(TASKS)), rng.integers(60 * len(TASKS))))


def reorder(path: Path, rng: np.random.Generator) -> None:
    rows, own = np.arange(60 * len(TASKS)), rows_of_a_task(rng)
    rows[own] = np.roll(own, rng.integers(1, 60))
    change_rows(path, rows)


def duplicate(path: Path, rng: np.random.Generator) -> None:
    rows, own = np.arange(60 * len(TASKS)), rows_of_a_task(rng)
    rows[own[rng.integers(30)]] = own[rng.integers(30, 60)]
    change_rows(path, rows)


def change_a_value(path: Path, rng: np.random.Generator) -> None:
    """Change an output or a label; the file is still valid Parquet."""
    table = pq.read_table(path)
    name = rng.choice([n for n in table.column_names if n not in ("task", "id")])
    values = table[name].to_numpy().copy()
    values[rng.choice(np.flatnonzero(np.isfinite(values)))] += 1
    index = table.column_names.index(name)
    pq.write_table(table.set_column(index, name, pa.array(values)), path)


def drop_task(path: Path, rng: np.random.Generator) -> None:
    found = read_predictions(path)
    del found[rng.choice(TASKS)]
    write_predictions(path, list(found.values()))


def remove(path: Path, rng: np.random.Generator) -> None:
    path.unlink()


DAMAGES = {
    truncate: "not a prediction file",
    drop_row: "179 rows, its header says 180",
    reorder: "IDs or their order do not match the header",
    duplicate: "IDs are duplicated",
    change_a_value: "were changed after writing",
    drop_task: "no predictions of ",
    remove: "has no artifact predictions/",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_predictions_are_rejected_with_a_reason(
    store: Store, damage: Callable[[Path, np.random.Generator], None]
) -> None:
    """30 random damages of each kind."""
    for trial, seed in (("a", 1), ("b", 2), ("bad", 3)):
        store.add_usual(trial, seed, num_epochs=1)
    rng = np.random.default_rng(0)
    for _ in range(30):
        path = store.path("bad", 1)
        content = path.read_bytes()
        damage(path, rng)
        trial, reason = only_rejection(store.pool())
        assert trial == "bad"
        assert DAMAGES[damage] in reason
        assert path.name in reason
        assert path.parent.name in reason
        path.write_bytes(content)
    assert store.pool().rejected == ()


OTHER_IDS = tuple(f"x-{row}" for row in range(60))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data_fingerprint": "other"}, "paraphrase: data other, most runs: paraphrase-data"),
        ({"split": "test"}, "predictions for other data: split is 'test', expected 'dev'"),
        ({"ids": OTHER_IDS}, "other rows than most runs: 60 ids missing, 60 unknown"),
        ({"labels": np.zeros(60)}, "labels differ from those of most runs"),
        ({"labels": None}, "holds no labels, which an ensemble is chosen by"),
        ({"outputs": np.full(60, np.nan, np.float32)}, "outputs are not finite"),
        ({"kind": Kind.SIMILARITY}, "outputs [60] of a similarity task, expected [60] of a paraph"),
    ],
)
def test_predictions_of_other_data_are_rejected_with_a_reason(
    store: Store, changes: dict[str, Any], reason: str
) -> None:
    """Files that are undamaged."""
    for trial, seed in (("a", 1), ("b", 2), ("bad", 3)):
        store.add_usual(trial, seed, num_epochs=1)
    content = {"outputs": store.outputs("paraphrase", 7)} | changes
    store.replace("bad", 1, "paraphrase", store.predictions("paraphrase", **content))
    trial, found = only_rejection(store.pool())
    assert trial == "bad"
    assert reason in found


def test_another_number_of_classes_is_rejected(store: Store) -> None:
    store.add_usual("a", 1)
    logits = store.outputs("sentiment", 1)[:, :4]
    store.replace("a", 2, "sentiment", store.predictions("sentiment", logits))
    assert (
        "outputs [60, 4] of a classification task, expected [60, 5]"
        in only_rejection(store.pool())[1]
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data_fingerprint": "x"}, "paraphrase, epoch 2: data x, epoch 1: paraphrase-data"),
        ({"tokenizer": "x"}, "tokenizer is 'x', expected 'tok'"),
        ({"labels": np.zeros(60)}, "labels differ from those of epoch 1"),
    ],
)
def test_epochs_of_a_run_must_be_of_the_same_data(
    store: Store, changes: dict[str, Any], reason: str
) -> None:
    store.add_usual("a", 1)
    changed = store.predictions("paraphrase", store.outputs("paraphrase", 1), **changes)
    store.replace("a", 2, "paraphrase", changed)
    assert reason in only_rejection(store.pool())[1]


def test_rows_in_another_order_are_aligned_by_id(
    store: Store, make_store: Callable[[str], Store]
) -> None:
    """The header has the ids in the order of the rows."""
    other = make_store("other")
    for trial, seed in (("a", 1), ("b", 2)):
        store.add_usual(trial, seed)
        other.add_usual(trial, seed)
    order = np.random.default_rng(0).permutation(60)
    for epoch in (1, 2):
        for task in TASKS:
            turned = other.predictions(
                task,
                other.outputs(task, 200 + epoch)[order],
                ids=tuple(other.ids(task)[row] for row in order),
                labels=other.labels[task][order],
            )
            other.replace("b", epoch, task, turned)
    assert_same(store.pool(), other.pool())
