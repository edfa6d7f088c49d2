"""Labels in files: by name, by number, sets of them, scores."""

import math
from pathlib import Path

import pytest

from trainable.config.tasks import Task
from trainable.data.readers import label_value, read_file

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
def test_a_cell_names_a_label(declared: dict[str, object], cell: str, value: float) -> None:
    assert label_value(Task(files=FILES, **declared), cell) == (value, "")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("declared", "cell", "why"),
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
def test_a_cell_that_names_none(declared: dict[str, object], cell: str, why: str) -> None:
    value, said = label_value(Task(files=FILES, **declared), cell)  # type: ignore[arg-type]
    assert math.isnan(value)
    assert why in said


def test_names_without_a_declaration_are_told_once(tmp_path: Path) -> None:
    path = tmp_path / "mood.csv"
    rows = (f"{n}\tthe film\t{MOODS[n % 3]}\n" for n in range(30))
    path.write_text("id\tsentence\tlabel\n" + "".join(rows))
    task = Task(kind="classification", files=FILES)  # type: ignore[arg-type]
    examples, defects = read_file("mood", task, "train", path)
    assert not len(examples)
    assert [defect.code for defect in defects] == ["D15"]
    assert "angry, calm, glad" in str(defects[0])
    assert not defects[0].is_of_row  # leaving rows out mends nothing
    path.write_text(path.read_text() + "31\tthe plot\t1\n")  # then they are errors of their rows
    assert {defect.code for defect in read_file("mood", task, "train", path)[1]} == {"D08"}
