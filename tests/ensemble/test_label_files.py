"""Sentences from files, labels to files; what is missing is named by its line."""

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest

from ensemble.label_files import (
    read_lines,
    read_sentences,
    read_stream,
    submission,
    submission_text,
    to_csv,
    to_json,
)
from ensemble.predict import Ensemble
from mlflow_setup.errors import DataError
from trainable.tasks import PAPER_TASKS

SENTIMENT, SIMILARITY = PAPER_TASKS["sentiment"], PAPER_TASKS["similarity"]
SINGLES = ["a film , warm", 'the "good" plot']
PAIRS = [("a film", "the film"), ("a, b", "c; d")]


def read(tmp_path: Path, name: str, content: str | bytes, task_name: str) -> pd.DataFrame:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_sentences(path, PAPER_TASKS[task_name])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'sentence\na film , warm\n"the ""good"" plot"\n'),
        ("a.csv", '\ufeffsentence\r\na film , warm\r\n"the ""good"" plot"\r\n\r\n'),
        ("a.csv", 'x,sentence\n1,"a film , warm"\n2,"the ""good"" plot"'),
        ("a.tsv", 'sentence\tx\n a film , warm \t1\n"the ""good"" plot"\t2\n'),
        ("a.csv", 'x;sentence\n1;a film , warm\n2;"the ""good"" plot"\n'),
        ("a.jsonl", '{"sentence": "a film , warm"}\n{"sentence": "the \\"good\\" plot", "x": 1}\n'),
        ("a.jsonl", '["a film , warm"]\n["the \\"good\\" plot"]'),
        ("a.jsonl", '"a film , warm"\n{"sentence": "the \\"good\\" plot"}\n\n'),
    ],
)
def test_single_sentences(tmp_path: Path, name: str, content: str) -> None:
    frame = read(tmp_path, name, content, "sentiment")
    assert frame.to_dict("list") == {"sentence": SINGLES}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'sentence1,sentence2\na film,the film\n"a, b",c; d\n'),
        ("a.csv", 'sentence2,sentence1\nthe film,a film\nc; d,"a, b"\n'),
        ("a.csv", "\tsentence1\tsentence2\n0\ta film\tthe film\n1\ta, b\tc; d\n"),
        ("a.jsonl", '["a film", "the film"]\n{"sentence2": "c; d", "sentence1": "a, b"}\n'),
    ],
)
def test_pairs(tmp_path: Path, name: str, content: str) -> None:
    frame = read(tmp_path, name, content, "similarity")
    assert list(frame.itertuples(index=False, name=None)) == PAIRS


@pytest.mark.parametrize(
    ("name", "content", "ids"),
    [
        ("a.csv", "id,sentence\nx,a\ny,b\n", ["x", "y"]),
        ("a.csv", "sentence,id\na,x\nb,\n", ["x", ""]),
        ("a.jsonl", '{"id": 7, "sentence": "a"}\n["b"]\n', ["7", ""]),
    ],
)
def test_ids_are_kept(tmp_path: Path, name: str, content: str, ids: list[str]) -> None:
    frame = read(tmp_path, name, content, "sentiment")
    assert frame.to_dict("list") == {"id": ids, "sentence": ["a", "b"]}


def test_a_cell_may_have_line_breaks_and_the_next_line_number_is_right(tmp_path: Path) -> None:
    content = 'sentence,x\n"a\nb",1\nc,2\n ,3\n'
    with pytest.raises(DataError, match=r"a\.csv:5: sentence is empty"):
        read(tmp_path, "a.csv", content, "sentiment")
    assert read(tmp_path, "a.csv", content[:-4], "sentiment")["sentence"].tolist() == ["a\nb", "c"]


@pytest.mark.parametrize(
    ("name", "content", "task", "message"),
    [
        ("a.csv", "", "sentiment", "no column sentence in the header"),
        ("a.csv", "sentence\n", "sentiment", "no sentences to predict"),
        ("a.csv", "text\na\n", "sentiment", r"a\.csv:1: no column sentence in the header"),
        ("a.csv", "sentence1,x\na,b\n", "similarity", r"a\.csv:1: no column sentence2"),
        ("a.csv", "sentence,sentence\na,b\n", "sentiment", "twice the column sentence"),
        ("a.csv", "sentence,x\na,b\n\nc,d\n", "sentiment", r"a\.csv:3: 1 cells, the header has 2"),
        ("a.csv", "sentence\na\n\nb\n", "sentiment", r"a\.csv:3: sentence is empty"),
        ("a.csv", "sentence,x\na,1\n,2\n", "sentiment", r"a\.csv:3: sentence is empty"),
        ("a.csv", "sentence,x\na,1,2\n", "sentiment", r"a\.csv:2: 3 cells, the header has 2"),
        ("a.csv", 'sentence,x\na,1\n"b,2\n', "sentiment", r"a\.csv:3: unexpected end of data"),
        ("a.csv", f"sentence\n{'a' * 200_000}\n", "sentiment", r"a\.csv:2: field larger than"),
        ("a.csv", b"sentence\na\n\xff\n", "sentiment", r"a\.csv:3: is not UTF-8"),
        ("a.csv", "sentence\na\n".encode("utf-16"), "sentiment", "is not UTF-8"),
        ("a.jsonl", "", "sentiment", "no sentences to predict"),
        ("a.jsonl", '["a"]\n{"sentence"', "sentiment", r"a\.jsonl:2: is not JSON"),
        ("a.jsonl", '["a"]\n\n["b"]\n', "sentiment", r"a\.jsonl:2: is not JSON"),
        ("a.jsonl", "[" * 100_000, "sentiment", r"a\.jsonl:1: is not JSON"),
        ("a.jsonl", '{"text": "a"}\n', "sentiment", r"a\.jsonl:1: sentence is None, not text"),
        ("a.jsonl", '["a"]\n{"sentence": null}\n', "sentiment", r"a\.jsonl:2: sentence is None"),
        ("a.jsonl", '{"sentence": ""}\n', "sentiment", r"a\.jsonl:1: sentence is empty"),
        ("a.jsonl", "5\n", "sentiment", r"a\.jsonl:1: sentence is 5, not text"),
        ("a.jsonl", '[["a"]]\n', "sentiment", r"a\.jsonl:1: sentence is \['a'\], not text"),
        ("a.jsonl", '["a", "b", "c"]\n', "similarity", r"a\.jsonl:1: 3 sentence\(s\), the task ta"),
        ("a.jsonl", '["a", 1]\n', "similarity", r"a\.jsonl:1: sentence2 is 1, not text"),
    ],
)
def test_what_is_missing_is_named_by_its_line(
    tmp_path: Path, name: str, content: str | bytes, task: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, name, content, task)


@pytest.mark.parametrize("name", ["none.csv", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_sentences(tmp_path / name, SENTIMENT)


def test_lines() -> None:
    single = read_stream("stdin", "a film\r\nb\u2028c \x0b\x85 d\n".encode(), SENTIMENT)
    assert single["sentence"].tolist() == ["a film", "b\u2028c \x0b\x85 d"]
    with_tab = read_lines("--text", ["a\tb"], SENTIMENT)
    assert with_tab["sentence"].tolist() == ["a\tb"]
    pair = read_stream("stdin", b"a film\tthe film\n", SIMILARITY)
    assert pair.to_dict("list") == {"sentence1": ["a film"], "sentence2": ["the film"]}
    with pytest.raises(DataError, match="stdin:2: sentence is empty"):
        read_stream("stdin", b"a\n\nb\n", SENTIMENT)
    with pytest.raises(DataError, match=r"stdin:1: 1 sentence\(s\), the task takes 2"):
        read_stream("stdin", b"a film\n", SIMILARITY)
    with pytest.raises(DataError, match="stdin:1: sentence is empty"):
        read_stream("stdin", b"", SENTIMENT)


# S8: a spreadsheet and a terminal run nothing.


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("a film", "a film"),
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1 , they said", "'-1 , they said"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'?=1"),
        ("\r=1", "'?=1"),
        ("\n=1", "'?=1"),
        ("a = b", "a = b"),
        ("\x1b[2Jgone\x07", "?[2Jgone?"),
        ("\x9b2J", "?2J"),
        ("right\u202eto left", "right?to left"),
        ('=HYPERLINK("x")', '\'=HYPERLINK("x")'),
    ],
)
def test_text_is_harmless(sentence: str, shown: str) -> None:
    sentences = pd.DataFrame({"id": [sentence], "sentence": [sentence]})
    text = to_csv(sentences, pd.DataFrame({"label": [3], "probability": [0.12345678]}))
    header, row = csv.reader(io.StringIO(text))
    assert header == ["label", "probability", "id", "sentence"]
    assert row == ["3", "0.123457", shown, shown]
    as_json = to_json("sentiment", sentences, pd.DataFrame({"label": [3]}))
    assert as_json.strip().isprintable()
    assert json.loads(as_json) == {
        "schema_version": 1,
        "task": "sentiment",
        "predictions": [{"id": sentence, "label": 3}],
    }


# The submission: the rows that interface.md quotes from the course's own writer.


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
def test_a_submission_is_byte_for_byte_the_courses(
    task: str, id_: str, label: float, expected: str
) -> None:
    assert submission_text(PAPER_TASKS[task], [id_], [label]) == expected


def test_a_task_of_ones_own_has_a_header_too() -> None:
    task = SENTIMENT.model_copy(update={"submission_header": None})
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
    with pytest.raises(DataError, match=r"(?s)test.csv:3: .*test.csv:4: id a stands twice"):
        submission(Ensemble.load(tiny_bundle), "sentiment", path)
