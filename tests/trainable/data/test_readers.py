"""Labels in files: names, numbers, sets of labels, scores."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainable.config.tasks import Columns, Task
from trainable.data.labels import label_value
from trainable.data.readers import read_file

FILES = {"train": "t", "dev": "d"}
MOODS = ["glad", "calm", "angry"]


@pytest.mark.parametrize(
    ("declared", "cell", "value"),
    [
        ({"kind": "classification", "labels": MOODS}, "angry", 2.0),
        ({"kind": "classification", "num_classes": 3}, "2", 2.0),
        ({"kind": "classification", "num_classes": 3}, "2.0", 2.0),
        ({"kind": "classification", "labels": [3, 1, 2]}, "1", 1.0),
        ({"kind": "paraphrase", "labels": ["other", "same"]}, "same", 1.0),
        ({"kind": "multilabel", "labels": MOODS}, "angry| glad|angry", 5.0),
        ({"kind": "multilabel", "labels": MOODS}, "", 0.0),
        ({"kind": "multilabel", "num_classes": 3, "label_separator": ","}, "0,1", 3.0),
        ({"kind": "regression", "min_score": -1, "max_score": 1}, "-0.25", -0.25),
    ],
)
def test_a_cell_is_converted_to_its_label(
    declared: dict[str, object], cell: str, value: float
) -> None:
    assert label_value(Task(files=FILES, **declared), cell) == (value, "")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("declared", "cell", "reason"),
    [
        (
            {"kind": "classification", "labels": MOODS},
            "angri",
            "not one of the labels glad, calm, angry (did you mean angry?)",
        ),
        ({"kind": "classification", "labels": MOODS}, "0", "not one of the labels"),
        ({"kind": "classification", "num_classes": 3}, "3", "not a class in 0..2"),
        ({"kind": "classification", "num_classes": 3}, "glad", "not a class in 0..2"),
        ({"kind": "multilabel", "labels": MOODS}, "glad||calm", "not one of the labels"),
        ({"kind": "multilabel", "labels": MOODS}, "glad,calm", "not one of the labels"),
        ({"kind": "regression", "min_score": -1, "max_score": 1}, "1.5", "not a score in -1..1"),
        ({"kind": "regression"}, "nan", "not a score in 0..5"),
    ],
)
def test_an_invalid_label_is_nan_with_a_reason(
    declared: dict[str, object], cell: str, reason: str
) -> None:
    value, message = label_value(Task(files=FILES, **declared), cell)  # type: ignore[arg-type]
    assert math.isnan(value)
    assert reason in message


def test_undeclared_label_names_are_one_error_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mood.csv"
    rows = (f"{n}\tthe film\t{MOODS[n % 3]}\n" for n in range(30))
    path.write_text("id\tsentence\tlabel\n" + "".join(rows))
    task = Task(kind="classification", files=FILES)  # type: ignore[arg-type]
    examples, defects = read_file("mood", task, "train", path)
    assert not len(examples)
    assert [defect.code for defect in defects] == ["D15"]
    assert "angry, calm, glad" in str(defects[0])
    assert not defects[0].is_of_row  # skipping rows would not help
    path.write_text(path.read_text() + "31\tthe plot\t1\n")  # now errors of their rows
    assert {defect.code for defect in read_file("mood", task, "train", path)[1]} == {"D08"}


def test_json_lines_and_parquet_are_read_by_field_names(tmp_path: Path) -> None:
    rows = [{"id": 1, "text": "a film", "mood": "calm", "x": 0}, {"id": 2, "text": "b", "mood": ""}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "[1]\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    columns = {"sentences": ["text"], "label": "mood"}
    task = Task(kind="classification", files=FILES, columns=columns, labels=MOODS)  # type: ignore[arg-type]
    for name, codes in {"m.jsonl": ["D20", "D07", "D16"], "m.parquet": ["D20", "D07"]}.items():
        examples, defects = read_file("mood", task, "train", tmp_path / name)
        assert (examples.ids, examples.sentences) == (("1",), (("a film",),))
        assert examples.labels is not None
        assert examples.labels.tolist() == [1.0]
        assert [defect.code for defect in defects] == codes
    other = task.model_copy(update={"columns": Columns(sentences=("sentence",), label="mood")})
    (defect,) = read_file("mood", other, "train", tmp_path / "m.parquet")[1]
    assert "no column sentence in the header (id, text, mood, x)" in defect.message
