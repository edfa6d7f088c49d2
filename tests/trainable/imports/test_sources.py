"""Rows are read from files, folders and data sets of the hub."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlflow_setup.errors import ConfigError, DataError
from trainable.imports.sources import Form, read_sources

FEATURES = {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}
METADATA = {b"huggingface": json.dumps({"info": {"features": FEATURES}}).encode()}


def _table(labels: list[int]) -> pa.Table:
    columns = {"text": ["a, film"] * len(labels), "label": labels}
    return pa.table(columns).replace_schema_metadata(METADATA)


def _rows(place: Path, form: Form = Form()) -> list[dict[str, Any]]:  # noqa: B008
    (source,) = read_sources(str(place), form)
    return source.rows


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("a.csv", 'text,label\n"a, film",good\n"b ""x""",bad\n', Form()),
        ("a.csv", 'text;label\na, film;good\n"b ""x""";bad\n', Form()),
        ("a.tsv", 'text\tlabel\na, film\tgood\nb "x"\tbad\n', Form()),
        ("a.txt", 'text|label\r\na, film|good\r\nb "x"|bad\r\n', Form()),
        ("a.csv", '"a, film",good\n"b ""x""",bad\n', Form(header=("text", "label"))),
        ("a.csv", 'text\tlabel\na, film\tgood\nb "x"\tbad\n', Form("\t", "none", None)),
        (
            "a.jsonl",
            '{"text": "a, film", "label": "good"}\n{"text": "b \\"x\\"", "label": "bad"}',
            Form(),
        ),
        (
            "a.json",
            '[{"text": "a, film", "label": "good"}, {"text": "b \\"x\\"", "label": "bad"}]',
            Form(),
        ),
    ],
)
def test_formats_of_text_are_detected(tmp_path: Path, name: str, text: str, form: Form) -> None:
    (tmp_path / name).write_bytes(text.encode())
    texts = [list(row.values()) for row in _rows(tmp_path / name, form)]
    assert texts == [["a, film", "good"], ['b "x"', "bad"]]


@pytest.mark.parametrize(
    ("encoding", "given", "reported"),
    [("utf-8-sig", None, ""), ("cp1252", None, "cp1252"), ("utf-16", None, "utf-16"),
     ("cp1251", "windows-1251", "cp1251")],
)  # fmt: skip
def test_encodings_are_detected_and_reported(
    tmp_path: Path, encoding: str, given: str | None, reported: str
) -> None:
    word = "фильм" if encoding == "cp1251" else "Café größer"
    text = f"text;label\r\n{word};good\r\nb;bad\r\n"
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    (source,) = read_sources(str(tmp_path / "a.csv"), Form(encoding=given))
    assert source.rows == [{"text": word, "label": "good"}, {"text": "b", "label": "bad"}]
    assert source.form.partition("text in ")[2].removesuffix(" (--encoding)") == reported


@pytest.mark.parametrize(
    ("name", "data", "encoding", "error", "message"),
    [
        ("a.xlsx", b"PK", None, DataError, "a spreadsheet, not text"),
        (
            "a.csv",
            b"text,label\n\x81\xe9,b\n",
            None,
            DataError,
            r"csv:2: byte 0x81 is not UTF-8",
        ),
        ("a.csv", b"text,label\n\xe9,b\n", "ascii", DataError, "is not text in ascii"),
        ("a.csv", b"text,label\n", "latin9000", ConfigError, "no such encoding"),
    ],
)
def test_files_that_are_not_text_are_refused(
    tmp_path: Path, name: str, data: bytes, encoding: str | None, error: type, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=message):
        read_sources(str(tmp_path / name), Form(encoding=encoding))


def test_parquet_and_arrow_files_of_datasets_have_named_classes(tmp_path: Path) -> None:
    pq.write_table(_table([1, 0, -1]), tmp_path / "a.parquet")
    labels = [row["label"] for row in _rows(tmp_path / "a.parquet")]
    assert labels == ["good", "bad", None]  # -1 is a hidden label
    saved = tmp_path / "saved"
    for split, content in {"train": [1, 0], "validation": [0], "unsupervised": [1]}.items():
        (saved / split).mkdir(parents=True)
        table = _table(content)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        (saved / split / "data.arrow").write_bytes(sink.getvalue().to_pybytes())
        state = {"_data_files": [{"filename": "data.arrow"}]}
        (saved / split / "state.json").write_text(json.dumps(state))
    splits = ["train", "validation", "unsupervised"]
    (saved / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    found = {source.split: source.rows for source in read_sources(str(saved))}
    assert {split: [row["label"] for row in rows] for split, rows in found.items()} == {
        "train": ["good", "bad"],
        "dev": ["bad"],
    }


def test_splits_are_detected_from_file_names(tmp_path: Path) -> None:
    for name in ("x-train-00.csv", "x-train-01.csv", "x-valid.csv", "x_test.csv"):
        (tmp_path / name).write_text("text,label\na film,good\n")
    (tmp_path / "notes.md").write_text("no data")
    found = {source.split: len(source.rows) for source in read_sources(str(tmp_path))}
    assert found == {"train": 2, "dev": 1, "test": 1}
    (tmp_path / "more.csv").write_text("text,label\na film,good\n")
    with pytest.raises(ConfigError, match=r"more\.csv: its name contains neither"):
        read_sources(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label\na,b\nc\n", r"1 row\(s\) cannot be read.*a\.csv:3: 1 cells, the header has 2"),
        ("text,text\na,b\n", "column text occurs twice"),
        ("text,label\n", "has no rows"),
    ],
)
def test_invalid_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=f"(?s){message}"):
        read_sources(str(tmp_path / "a.csv"))


def test_a_missing_file_is_an_error_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(ConfigError, match=r"no such file or folder \(did you mean a\.csv\?\)"):
        read_sources(str(tmp_path / "aa.csv"))
    with pytest.raises(ConfigError, match="no such file") as refused:
        read_sources("https://example.org/a.csv")
    assert refused.value.fix == "download it first: curl -LO https://example.org/a.csv"


class _Hub:
    """A fake hub with a data set of two subsets."""

    def __init__(self, **_: object) -> None: ...

    def list_repo_files(self, name: str, revision: str | None, **_: object) -> list[str]:
        if name != "me/reviews":
            raise OSError("404")
        if revision is None:
            return ["README.md", "reviews.py"]
        return ["en/train-0.parquet", "en/test-0.parquet", "de/train-0.parquet"]


def test_a_subset_of_a_hub_data_set_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(_table([1, 0]), tmp_path / "any.parquet")
    monkeypatch.setattr("huggingface_hub.HfApi", _Hub)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *_, **__: tmp_path / "any.parquet"
    )
    found = read_sources("me/reviews/en")
    assert [source.split for source in found] == ["train", "test"]
    assert found[0].name == "me/reviews/en/train-0.parquet"
    with pytest.raises(ConfigError, match="2 subsets: de, en"):
        read_sources("me/reviews")
    with pytest.raises(DataError, match="me/none: cannot be downloaded from the hub: 404"):
        read_sources("me/none")


def test_a_name_without_an_owner_is_a_missing_folder() -> None:
    with pytest.raises(ConfigError, match="reveiws: there is no such file or folder"):
        read_sources("reveiws")
