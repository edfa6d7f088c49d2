"""Folders by URI: copied once, whole or not there, again only when they have changed."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from mlflow_setup.errors import ConfigError, IntegrityError, PartialError
from mlflow_setup.uris import is_uri
from trainable.batches.tokenization import load_tokenizer
from trainable.config.parse import from_flat
from trainable.data import remote as fetch
from trainable.data.dataset import read_dataset
from trainable.data.remote import FETCHED, fetched


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / FETCHED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "a.csv").write_text("a")
    (tmp_path / "data" / "deep" / "b.csv").write_text("bb")
    return tmp_path / "data"


class Bucket:
    """Stands for a remote file system: lists and opens what a folder holds, and counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: list[str] = []
        self.breaks_at: str | None = None
        self.extra: list[Any] = []

    def get_file_info(self, selector: fs.FileSelector) -> list[Any]:
        return [*fs.LocalFileSystem().get_file_info(selector), *self.extra]

    def open_input_stream(self, path: str) -> Any:
        self.opened.append(Path(path).name)
        if Path(path).name == self.breaks_at:
            raise OSError("connection reset by peer")
        return fs.LocalFileSystem().open_input_stream(path)


@pytest.fixture
def bucket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    bucket = Bucket(folder)
    monkeypatch.setattr(fetch, "_filesystem", lambda uri: (bucket, str(folder)))
    return bucket


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_data_and_an_encoder_by_uri_are_those_in_the_folder(
    tiny_data: Path, tiny_encoder: Path, cache: Path
) -> None:
    by_path = read_dataset(from_flat({"data.dir": str(tiny_data)}))
    by_uri = read_dataset(from_flat({"data.dir": f"file://{tiny_data}"}))
    assert by_uri.fingerprint == by_path.fingerprint
    assert len(load_tokenizer(f"file://{tiny_encoder}")) == len(load_tokenizer(tiny_encoder))
    assert len(list(cache.iterdir())) == 2


def test_many_who_want_it_at_once_copy_it_once(bucket: Bucket, folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(fetched, ["s3://bucket/data"] * 4))
    (copy,) = found
    assert contents(copy) == contents(folder) == {"a.csv": "a", "deep/b.csv": "bb"}
    assert sorted(bucket.opened) == ["a.csv", "b.csv"]
    assert fetched("s3://bucket/data") == copy
    assert len(bucket.opened) == 2


def test_what_has_changed_is_another_copy(bucket: Bucket, folder: Path) -> None:
    before = fetched("s3://bucket/data")
    (folder / "a.csv").write_text("A")  # of the same size
    os.utime(folder / "a.csv", (1e9, 1e9))
    after = fetched("s3://bucket/data")
    assert contents(after)["a.csv"] == "A"
    assert contents(before)["a.csv"] == "a"
    assert fetched("s3://other/data") != after


def test_a_copy_that_breaks_off_is_not_there(bucket: Bucket, folder: Path, cache: Path) -> None:
    bucket.breaks_at = "b.csv"
    with pytest.raises(PartialError, match=r"b.csv cannot be read: connection reset by peer"):
        fetched("s3://bucket/data")
    assert not list(cache.rglob("*.csv"))
    (home,) = cache.iterdir()
    (home / ".tmp-killed").mkdir()  # what a process leaves that is killed
    bucket.breaks_at = None
    assert contents(fetched("s3://bucket/data")) == contents(folder)
    assert not (home / ".tmp-killed").exists()


def test_a_file_that_changes_meanwhile_is_noticed(
    bucket: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Bucket(folder).get_file_info(fs.FileSelector(str(folder), recursive=True))
    monkeypatch.setattr(bucket, "get_file_info", lambda _: listed)
    (folder / "a.csv").write_text("longer")
    with pytest.raises(PartialError, match=r"a.csv changed while it was fetched"):
        fetched("s3://bucket/data")


@pytest.mark.parametrize("name", ["../evil", "deep/../../evil", "%2e%2e/evil"])
def test_no_name_leads_out_of_the_copy(
    bucket: Bucket, folder: Path, cache: Path, name: str
) -> None:
    path = f"{folder}/{name}"
    bucket.extra = [fs.FileInfo(path, fs.FileType.File, size=1, mtime_ns=0)]
    with pytest.raises(IntegrityError, match="is not a path inside"):
        fetched("s3://bucket/data")
    assert not list(cache.parent.rglob("evil"))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("file:///nowhere/at/all", "no folder with files"),
        ("ftp://host/data", "no storage URI"),
        ("file://relative", "no storage URI"),
    ],
)
def test_what_cannot_be_fetched_is_refused(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fetched(uri)


def test_one_that_cannot_be_listed_now_may_be_later(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: object) -> None:
        raise OSError("When listing: curlCode: 6, Couldn't resolve host name\nmore")

    monkeypatch.setattr(bucket, "get_file_info", away)
    with pytest.raises(PartialError, match=r"cannot be listed: .*host name$"):
        fetched("s3://bucket/data")


@pytest.mark.parametrize("key", ["data.dir", "model.encoder"])
def test_credentials_never_become_a_setting(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: the URI holds credentials") as caught:
        from_flat({key: "s3://me:hunter2@bucket/folder"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "expected"),
    [("s3://b/d", True), ("file:///d", True), ("/mnt/d", False), ("google/bert", False)],
)
def test_is_uri(place: str, expected: bool) -> None:
    assert is_uri(place) is expected
