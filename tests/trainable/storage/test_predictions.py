"""Prediction files: read as written, plain Parquet; changed or unexpected ones are refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlflow_setup.errors import IntegrityError
from trainable.config.tasks import Kind
from trainable.storage.predictions import (
    Predictions,
    dev_train_mask,
    read_predictions,
    write_predictions,
)

NUM_ROWS = 12


def predictions(kind: Kind = Kind.CLASSIFICATION, has_labels: bool = True) -> Predictions:
    draw = np.random.default_rng(0)
    shape = (NUM_ROWS, 3) if kind is Kind.CLASSIFICATION else (NUM_ROWS,)
    return Predictions(
        task_name="mood",
        kind=kind,
        split="dev",
        ids=tuple(f"id-{i}" for i in range(NUM_ROWS)),
        outputs=draw.normal(size=shape).astype(np.float32),
        labels=draw.integers(2, size=NUM_ROWS).astype(np.float64) if has_labels else None,
        data_fingerprint="data",
        tokenizer="words",
    )


def assert_same(found: Predictions, expected: Predictions) -> None:
    for name in ("task_name", "kind", "split", "ids", "data_fingerprint", "tokenizer"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.outputs.dtype == np.float32
    assert found.outputs.shape == expected.outputs.shape
    assert found.outputs.tobytes() == expected.outputs.tobytes()
    if expected.labels is None:
        assert found.labels is None
    else:
        assert found.labels is not None
        np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("has_labels", [True, False])
@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.PARAPHRASE, Kind.SIMILARITY])
def test_predictions_are_read_as_written(tmp_path: Path, kind: Kind, has_labels: bool) -> None:
    written = predictions(kind, has_labels)
    written.write(tmp_path / "mood" / "0001.parquet")
    assert_same(Predictions.read(tmp_path / "mood" / "0001.parquet"), written)
    assert [path.name for path in (tmp_path / "mood").iterdir()] == ["0001.parquet"]


@settings(max_examples=50, deadline=None)
@given(data=st.data(), ids=st.lists(st.text(st.characters(codec="utf-8")), unique=True, max_size=9))
def test_any_ids_and_numbers_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, ids: list[str]
) -> None:
    outputs = data.draw(arrays(np.float32, (len(ids), 2)))
    written = replace(predictions(has_labels=False), ids=tuple(ids), outputs=outputs)
    path = tmp_path_factory.mktemp("any") / "file.parquet"
    written.write(path)
    found = Predictions.read(path)
    assert found.ids == written.ids
    np.testing.assert_array_equal(found.outputs, written.outputs)


def test_the_tasks_of_an_epoch_share_a_file(tmp_path: Path) -> None:
    """Each task has its own columns, rows and labels."""
    path = tmp_path / "0007.parquet"
    written = {
        name: replace(predictions(kind, has_labels), task_name=name, ids=ids)
        for name, kind, has_labels, ids in (
            ("mood", Kind.CLASSIFICATION, True, predictions().ids),
            ("same", Kind.PARAPHRASE, False, predictions().ids),
            ("near", Kind.SIMILARITY, True, tuple(f"n-{i}" for i in range(NUM_ROWS))),
        )
    }
    write_predictions(path, list(written.values()))
    found = read_predictions(path)
    assert list(found) == list(written)
    for name, expected in written.items():
        assert_same(found[name], expected)
        assert_same(Predictions.read(path, name), expected)
    columns = pq.read_schema(path).names
    assert columns == ["task", "id", "label", "logit", "logit_0", "logit_1", "logit_2", "score"]
    with pytest.raises(IntegrityError, match="of mood, same, near, not of one task"):
        Predictions.read(path)
    with pytest.raises(IntegrityError, match="of mood, same, near, not of task 'other'"):
        Predictions.read(path, "other")


def test_swapped_tasks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "0007.parquet"
    parts = [replace(predictions(Kind.SIMILARITY), task_name=name) for name in ("one", "two")]
    write_predictions(path, parts)
    rows(*range(NUM_ROWS, 2 * NUM_ROWS), *range(NUM_ROWS))(path)
    with pytest.raises(IntegrityError, match="tasks or their order do not match the header"):
        read_predictions(path)


def test_a_file_is_a_parquet_table_with_a_header(tmp_path: Path) -> None:
    written = predictions()
    written.write(tmp_path / "file.parquet")
    table = pq.read_table(tmp_path / "file.parquet")
    assert table.column_names == ["task", "id", "label", "logit_0", "logit_1", "logit_2"]
    assert tuple(table["id"].to_pylist()) == written.ids
    header = json.loads(table.schema.metadata[b"ensweep"])
    assert header["version"] == 2
    (part,) = header["parts"]
    assert {key: part[key] for key in ("task", "kind", "split", "num_rows")} == {
        "task": "mood",
        "kind": "classification",
        "split": "dev",
        "num_rows": NUM_ROWS,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ("a", "b")}, r"mood: outputs \[12, 3\] of a classification task do not fit 2 ids"),
        ({"outputs": np.zeros(NUM_ROWS, np.float32)}, r"outputs \[12\] of a classification task"),
        ({"kind": Kind.SIMILARITY}, r"outputs \[12, 3\] of a similarity task"),
        ({"labels": np.zeros(3)}, r"labels \[3\] do not fit 12 ids"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(predictions(), **changes)  # type: ignore[arg-type]


Change = Callable[[Path], object]


def change_table(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Rewrite the file with other rows or columns, but the same header."""
    table = pq.read_table(path)
    changed = change(table).replace_schema_metadata(table.schema.metadata)
    pq.write_table(changed, path)


def rows(*numbers: int) -> Change:
    """Keep these rows, in this order."""
    return lambda path: change_table(path, lambda table: table.take(list(numbers)))


def column(name: str, values: Callable[[pa.Table], list[object]]) -> Change:
    """Replace a column."""
    return lambda path: change_table(
        path,
        lambda table: table.set_column(
            table.column_names.index(name), name, pa.array(values(table))
        ),
    )


def without(name: str) -> Change:
    """Remove a column."""
    return lambda path: change_table(path, lambda table: table.drop_columns([name]))


def metadata(content: dict[bytes, str] | None) -> Change:
    """Replace the file's metadata, which have the header."""
    return lambda path: pq.write_table(pq.read_table(path).replace_schema_metadata(content), path)


def header(key: str, value: object) -> Change:
    """Change a value of the header; None removes it."""

    def change(path: Path) -> None:
        content = json.loads(pq.read_schema(path).metadata[b"ensweep"])
        part = content if key == "version" else content["parts"][0]
        part[key] = value
        if value is None:
            del part[key]
        metadata({b"ensweep": json.dumps(content)})(path)

    return change


DAMAGE: dict[str, tuple[Change, str]] = {
    "missing": (Path.unlink, "No such file"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    "empty": (lambda path: path.write_bytes(b""), "file size is 0 bytes"),
    "text": (lambda path: path.write_text("id,logit\n" * 9), "magic bytes not found"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "magic bytes not found"),
    "without header": (metadata(None), "it has no header"),
    "header of another kind": (metadata({b"ensweep": "[1]"}), "it has no header"),
    "deeply nested header": (metadata({b"ensweep": "[" * 100_000}), "maximum recursion depth"),
    "the version of the first release": (header("version", 1), "its version is 1, expected 2"),
    "later version": (header("version", 3), "its version is 3, expected 2"),
    "unknown split": (header("split", "all"), "there is no split 'all'"),
    "unknown kind": (header("kind", "poem"), "'poem' is not a valid Kind"),
    "kind of other columns": (header("kind", "similarity"), "are not those of a similarity task"),
    "header key missing": (header("num_rows", None), "num_rows"),
    "header key extra": (header("author", "x"), "were changed"),
    "another task": (header("task", "other"), "tasks or their order do not match the header"),
    "another split": (header("split", "test"), "were changed"),
    "another tokenizer": (header("tokenizer", "x"), "were changed"),
    "other data": (header("data_fingerprint", "x"), "were changed"),
    "rows reordered": (rows(*range(NUM_ROWS)[::-1]), "IDs or their order do not match the header"),
    "a row missing": (rows(*range(1, NUM_ROWS)), "11 rows, its header says 12"),
    "rows twice": (rows(*range(NUM_ROWS), *range(NUM_ROWS)), "24 rows, its header says 12"),
    "a row twice, another missing": (rows(0, 0, *range(2, NUM_ROWS)), "IDs are duplicated"),
    "other ids": (
        column("id", lambda _: [f"x{i}" for i in range(NUM_ROWS)]),
        "IDs or their order do not match the header",
    ),
    "ids that are numbers": (column("id", lambda _: [*range(NUM_ROWS)]), "an ID is not text"),
    "an id missing": (
        column("id", lambda table: [None, *table["id"].to_pylist()[1:]]),
        "an ID is not text",
    ),
    "one label changed": (
        column("label", lambda table: [7.0, *table["label"].to_pylist()[1:]]),
        "outputs, labels or header were changed",
    ),
    "no labels": (without("label"), "outputs, labels or header were changed"),
    "no ids": (without("id"), 'Field "id" does not exist'),
    "outputs swapped": (
        column("logit_0", lambda table: table["logit_1"].to_pylist()),
        "outputs, labels or header were changed",
    ),
    "an output missing": (without("logit_0"), "are not those of a classification task"),
    "outputs that are text": (
        column("logit_1", lambda _: ["x"] * NUM_ROWS),
        "string instead of numbers",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "0007.parquet"
    predictions().write(path)
    damage, message = DAMAGE[name]
    damage(path)
    with pytest.raises(IntegrityError, match=message) as refused:
        Predictions.read(path)
    assert str(refused.value).startswith(f"{path}: not a prediction file, or damaged: ")
    assert refused.value.exit_code == 6


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"task_name": "other"}, "task_name is 'mood', expected 'other'"),
        ({"split": "test"}, "split is 'dev', expected 'test'"),
        ({"data_fingerprint": "new"}, "data_fingerprint is 'data', expected 'new'"),
        ({"tokenizer": "letters"}, "tokenizer is 'words', expected 'letters'"),
        (
            {"split": "test", "tokenizer": "letters"},
            "split is 'dev', expected 'test'; tokenizer is 'words', expected 'letters'",
        ),
    ],
)
def test_unexpected_predictions_are_refused(wanted: dict[str, str], message: str) -> None:
    expected = {"task_name": "mood", "split": "dev", "data_fingerprint": "data", **wanted}
    with pytest.raises(IntegrityError, match=f"^a.parquet: predictions for other data: {message}"):
        predictions().require(Path("a.parquet"), **expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("tokenizer", [None, "words"])
def test_expected_predictions_are_accepted(tokenizer: str | None) -> None:
    predictions().require(
        Path("a.parquet"),
        task_name="mood",
        split="dev",
        data_fingerprint="data",
        tokenizer=tokenizer,
    )


def test_half_of_dev_is_chosen_by_id() -> None:
    ids = tuple(f"{i:x}" for i in range(10_000))
    mask = dev_train_mask(ids)
    assert mask.dtype == np.bool_
    assert 0.48 < mask.mean() < 0.52
    np.testing.assert_array_equal(dev_train_mask(ids[::-1]), mask[::-1])
    np.testing.assert_array_equal(dev_train_mask(ids[5:50]), mask[5:50])
    assert dev_train_mask(()).shape == (0,)


def test_the_halves_are_those_of_earlier_releases() -> None:
    """Ensembles of earlier sweeps were chosen on this half and evaluated on the other."""
    chosen = [id_ for id_ in ("a", "b", "c", "d", "e", "ä", "") if dev_train_mask((id_,))[0]]
    assert chosen == ["a", "e", "ä"]
