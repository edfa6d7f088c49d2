"""Sentences are read from files in chunks; errors name the line."""

import io
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ensemble.inference.sentence_files import count_rows, read_file, read_lines, read_stream
from mlflow_setup.errors import DataError
from trainable.config.tasks import PAPER_TASKS, Task

SENTIMENT, SIMILARITY = PAPER_TASKS["sentiment"], PAPER_TASKS["similarity"]
SINGLES = ["a film , warm", 'the "good" plot']
PAIRS = [("a film", "the film"), ("a, b", "c; d")]


def read(tmp_path: Path, name: str, content: str | bytes, task_name: str) -> pd.DataFrame:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    task = PAPER_TASKS[task_name]
    frame = pd.concat(read_file(path, [task]), ignore_index=True)
    assert pd.concat(read_file(path, [task], num_rows=1), ignore_index=True).equals(frame)
    return frame


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'sentence\na film , warm\n"the ""good"" plot"\n'),
        ("a.csv", '\ufeffsentence\r\na film , warm\r\n"the ""good"" plot"\r\n\r\n'),
        ("a.csv", '"sentence"\n"a film , warm"\n"the ""good"" plot"\n'),
        ("a.CSV", 'x|sentence\n1|a film , warm\n\n2|"the ""good"" plot"\n'),
        ("a.csv", 'x,sentence\n1,"a film , warm"\n2,"the ""good"" plot"'),
        ("a.tsv", 'sentence\tx\na film , warm\t1\n"the ""good"" plot"\t2\n'),
        ("a.csv", 'x;sentence\n1;a film , warm\n2;"the ""good"" plot"\n'),
        ("a.jsonl", '{"sentence": "a film , warm"}\n{"sentence": "the \\"good\\" plot", "x": 1}\n'),
        ("a.jsonl", '["a film , warm"]\n["the \\"good\\" plot"]'),
        ("a.JsonL", '"a film , warm"\n\n{"sentence": "the \\"good\\" plot"}\n\n'),
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


def test_text_and_ids_are_read_unchanged(tmp_path: Path) -> None:
    content = "id\tsentence\n a1 \t  Un r\u00e9gal\u00a0! \n\u200da2\t\u0645\u06cc\u200c\n"
    frame = read(tmp_path, "a.tsv", content, "sentiment")
    assert frame["id"].tolist() == [" a1 ", "\u200da2"]
    assert frame["sentence"].tolist() == ["  Un r\u00e9gal\u00a0! ", "\u0645\u06cc\u200c"]


def test_line_breaks_in_cells_count_in_line_numbers(tmp_path: Path) -> None:
    content = 'sentence,x\n"a\nb",1\nc,2\n ,3\n'
    with pytest.raises(DataError, match=r"a\.csv:5: sentence is empty"):
        read(tmp_path, "a.csv", content, "sentiment")
    assert read(tmp_path, "a.csv", content[:-4], "sentiment")["sentence"].tolist() == ["a\nb", "c"]


@pytest.mark.parametrize(
    ("name", "content", "task", "message"),
    [
        ("a.csv", "", "sentiment", "no column sentence in the header"),
        ("a.csv", "sentence\n", "sentiment", "no sentences to predict"),
        ("a.csv", "text\na\n", "sentiment", r"a\.csv:1: no column sentence in the header \(text\)"),
        ("a.csv", "sentence1,x\na,b\n", "similarity", r"a\.csv:1: no column sentence2"),
        ("a.csv", "sentence,sentence\na,b\n", "sentiment", "duplicate column sentence"),
        ("a.csv", "sentence,x\na,b\n\nc\n", "sentiment", r"a\.csv:4: 1 cells, the header has 2"),
        ("a.csv", "sentence\na\n\nb\n", "sentiment", r"a\.csv:3: sentence is empty"),
        ("a.csv", "sentence,x\na,1\n,2\n", "sentiment", r"a\.csv:3: sentence is empty"),
        ("a.csv", "sentence,x\na,1,2\n", "sentiment", r"a\.csv:2: 3 cells, the header has 2"),
        ("a.csv", 'sentence,x\na,1\n"b,2\n', "sentiment", r"a\.csv:3: a quotation mark is open to"),
        (
            "a.csv",
            f"sentence\n{'a' * 200_000}\n",
            "sentiment",
            r"a\.csv:2: has a cell of more than",
        ),
        ("a.csv", b"sentence\na\n\xff\n", "sentiment", r"a\.csv:3: byte 0xff is not UTF-8"),
        ("a.csv", "sentence\na\n".encode("utf-16"), "sentiment", "a.csv: is UTF-16, not UTF-8"),
        ("a.jsonl", "", "sentiment", "no sentences to predict"),
        ("a.jsonl", '["a"]\n{"sentence"', "sentiment", r"a\.jsonl:2: is not JSON"),
        ("a.jsonl", '["a"]\n\n["b"\n', "sentiment", r"a\.jsonl:3: is not JSON"),
        ("a.jsonl", '["a"]\n["\\ud83d"]\n', "sentiment", r"a\.jsonl:2: sentence is not Unicode"),
        (
            "a.jsonl",
            '{"id": "\\ud83d", "sentence": "a"}',
            "sentiment",
            r":1: the id is not Unicode",
        ),
        (
            "a.csv",
            'sentence,x,y\n"a,1,2\nb,1,2\nc",1,2\n',
            "sentiment",
            "closes in line 4, with rows",
        ),
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
def test_invalid_files_are_reported_with_the_line(
    tmp_path: Path, name: str, content: str | bytes, task: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, name, content, task)


@pytest.mark.parametrize("name", ["none.csv", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        list(read_file(tmp_path / name, [SENTIMENT]))


def stream(data: bytes, task: Task) -> pd.DataFrame:
    (frame,) = read_stream("stdin", io.BytesIO(data), [task])
    return frame


def test_lines_of_text() -> None:
    single = stream("a film\r\nb\u2028c \x0b\x85 d\n".encode(), SENTIMENT)
    assert single["sentence"].tolist() == ["a film", "b\u2028c \x0b\x85 d"]
    (with_tab,) = read_lines("--text", ["a\tb"], [SENTIMENT])
    assert with_tab["sentence"].tolist() == ["a\tb"]
    pair = stream(b"a film\tthe film\n", SIMILARITY)
    assert pair.to_dict("list") == {"sentence1": ["a film"], "sentence2": ["the film"]}
    with pytest.raises(DataError, match="stdin:2: sentence is empty"):
        stream(b"a\n\nb\n", SENTIMENT)
    with pytest.raises(DataError, match=r"stdin:1: 1 sentence\(s\), the task takes 2"):
        stream(b"a film\n", SIMILARITY)
    with pytest.raises(DataError, match="stdin: no sentences to predict"):
        stream(b"", SENTIMENT)


def test_chunks_are_read_lazily(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,sentence\n1,a\n2,"b\n\nb"\n3,c\n4, \n')
    chunks = read_file(path, [SENTIMENT], num_rows=2)
    assert next(chunks).to_dict("list") == {"id": ["1", "2"], "sentence": ["a", "b\n\nb"]}
    with pytest.raises(DataError, match=r"a\.csv:7: sentence is empty"):
        next(chunks)


def test_count_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,sentence\n1,a\n2,b\n3,c\n")
    assert count_rows(path) == 3
    pq.write_table(pa.table({"sentence": ["a"] * 7}), tmp_path / "a.parquet")
    assert count_rows(tmp_path / "a.parquet") == 7
    (tmp_path / "a.jsonl").write_text('["a"]\n["b"]\n')
    assert count_rows(tmp_path / "a.jsonl") == 2
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "bad.parquet").write_bytes(b"not Parquet")
    for name in ("pipe.csv", "none.csv", "bad.parquet"):  # does not wait for a writer of the pipe
        assert count_rows(tmp_path / name) is None


def test_a_line_may_end_in_a_carriage_return_alone(tmp_path: Path) -> None:
    frame = read(tmp_path, "a.csv", "sentence,x\ra,1\rb,2\r", "sentiment")
    assert frame["sentence"].tolist() == ["a", "b"]


def test_columns_of_several_tasks(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sentence2,sentence,sentence1\nb,x,a\n")
    (frame,) = read_file(path, list(PAPER_TASKS.values()))
    assert frame.to_dict("list") == {"sentence": ["x"], "sentence1": ["a"], "sentence2": ["b"]}


def test_ids_missing_from_the_first_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('["a"]\n["b"]\n{"id": 7, "sentence": "c"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:3: has an id, the rows before it have none"):
        list(read_file(path, [SENTIMENT], num_rows=2))


def test_parquet_files(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    columns = {"id": [7, 8], "other": [1, 2], "sentence": ["a film", " plot "]}
    pq.write_table(pa.table(columns), path)
    (frame,) = read_file(path, [SENTIMENT])
    assert frame.to_dict("list") == {"id": ["7", "8"], "sentence": ["a film", " plot "]}
    path.write_bytes(b"not Parquet")
    with pytest.raises(DataError, match="cannot be read"):
        list(read_file(path, [SENTIMENT]))
