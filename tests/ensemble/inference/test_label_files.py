"""Files of labels, and submissions to the course."""

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from ensemble.inference.ensemble import Ensemble
from ensemble.inference.label_files import (
    FORMULA,
    csv_parts,
    json_parts,
    submission,
    submission_text,
)
from mlflow_setup.errors import DataError
from trainable.config.tasks import PAPER_TASKS

TEXTS = [
    *("a film", "=1+1", "+1", "-1 , they said", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "a = b"),
    *("\x1b[2Jgone\x07", "\x9b2J", "right\u202eto left", '=HYPERLINK("x")', "a\rb", "a\r\nb", '"'),
    *(
        "Quel film\u202f! Un r\u00e9gal\u00a0",
        "\u0645\u06cc\u200c\u062e",
        "\U0001f469\u200d\U0001f4bb",
    ),
    *("\u826f\u3044\u3000\u6620\u753b", "\u0915\u094d\u200d\u0937", " blank ", "'quoted"),
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("for_spreadsheet", [False, True])
def test_text_is_written_unchanged_or_guarded_for_spreadsheets(
    text: str, for_spreadsheet: bool
) -> None:
    """S8: guarded text is not run as a formula."""
    sentences = pd.DataFrame({"id": [text], "sentence": [text]})
    labels = pd.DataFrame({"label": [3], "probability": [0.12345678]})
    written = "".join(csv_parts([(sentences, labels)], for_spreadsheet))
    header, row = csv.reader(io.StringIO(written, newline=""))
    assert header == ["label", "probability", "id", "sentence"]
    guarded = f"'{text}" if for_spreadsheet and text.startswith(FORMULA) else text
    assert row == ["3", "0.123457", guarded, guarded]
    assert pd.read_csv(io.StringIO(written, newline="")).shape == (1, 4)
    as_json = "".join(json_parts(["sentiment"], [(sentences, pd.DataFrame({"label": [3]}))]))
    assert as_json.strip().isprintable()
    assert json.loads(as_json) == {
        "schema_version": 1,
        "task": "sentiment",
        "predictions": [{"id": text, "label": 3}],
    }


def test_chunks_are_written_as_one_file() -> None:
    sentences = pd.DataFrame({"id": ["x", "y", "z"], "sentence": ["a", "b", "c"]})
    labels = pd.DataFrame({"label": [3, 1, 2]})
    chunks = [(sentences[:2], labels[:2]), (sentences[2:], labels[2:])]
    assert "".join(csv_parts(chunks)) == "".join(csv_parts([(sentences, labels)]))
    as_json = "".join(json_parts(["one", "two"], chunks))
    assert as_json == "".join(json_parts(["one", "two"], [(sentences, labels)]))
    assert json.loads(as_json)["tasks"] == ["one", "two"]
    assert [row["label"] for row in json.loads(as_json)["predictions"]] == [3, 1, 2]


@pytest.mark.parametrize(
    ("task", "id_", "label", "expected"),
    [
        (
            *("sentiment", "1ae91087064d5035fe6c0c63f", 1.0),
            "id \t Predicted_Sentiment \n1ae91087064d5035fe6c0c63f , 1 \n",
        ),
        (
            *("paraphrase", "fbfddc56315fb8a39e7608fa0", 1.0),
            "id \t Predicted_Is_Paraphrase \nfbfddc56315fb8a39e7608fa0 , 1.0 \n",
        ),
        (
            *("similarity", "876d0172eef5db7776e39c5de", 1.8492281436920166),
            "id \t Predicted_Similiary \n876d0172eef5db7776e39c5de , 1.8492281436920166 \n",
        ),
    ],
)
def test_a_submission_equals_the_courses_byte_for_byte(
    task: str, id_: str, label: float, expected: str
) -> None:
    assert submission_text(PAPER_TASKS[task], [id_], [label]) == expected


def test_a_task_of_the_users_has_a_header_too() -> None:
    task = PAPER_TASKS["sentiment"].model_copy(update={"submission_header": None})
    assert submission_text(task, [], []) == "id \t Predicted_sentiment \n"


@pytest.mark.parametrize("name", ["sentiment", "paraphrase", "similarity"])
def test_a_submission_has_the_ids_of_the_test_file(
    tiny_bundle: Path, tmp_path: Path, name: str
) -> None:
    ensemble = Ensemble.load(tiny_bundle)
    columns = ensemble.tasks[name].columns.sentences
    sentences = [("=good", "bad film"), ("a", "a film , warm"), ("@b", "not")]
    rows = [[str(n), f"iD{n}", *pair[: len(columns)]] for n, pair in enumerate(sentences)]
    table = [["", "id", *columns], *rows]
    path = tmp_path / "test.csv"
    path.write_text("".join("\t".join(row) + "\n" for row in table))
    frame = pd.DataFrame([row[2:] for row in rows], columns=list(columns))
    labels = ensemble.predict(frame, task=name)["label"].tolist()
    values = [repr(v if name == "sentiment" else float(v)) for v in labels]
    header = {
        "sentiment": "id \t Predicted_Sentiment \n",
        "paraphrase": "id \t Predicted_Is_Paraphrase \n",
        "similarity": "id \t Predicted_Similiary \n",
    }[name]
    lines = [f"{row[1]} , {value} \n" for row, value in zip(rows, values, strict=True)]
    assert submission(ensemble, name, path) == header + "".join(lines)


def test_a_submission_needs_every_row(tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text("id\tsentence\na\tgood\nb\t\na\tbad\n")
    with pytest.raises(DataError, match=r"(?s)test.csv:3: .*test.csv:4: id a occurs twice"):
        submission(Ensemble.load(tiny_bundle), "sentiment", path)
