"""Folders at URIs: local copies are complete, and made again only after a change."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlflow_setup.errors import ConfigError, IntegrityError, PartialError
from mlflow_setup.filesystem.object_store import RemoteFolder, Version
from trainable.batches.tokenization import load_tokenizer
from trainable.config.parse import from_flat
from trainable.data import remote as fetch
from trainable.data.dataset import read_dataset
from trainable.data.inputs import ChangedInputError, Inputs, expecting
from trainable.data.remote import FETCHED, fetched, listing, local_file


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


class Bucket(RemoteFolder):
    """A fake bucket: a local folder that records downloads and listings."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"file://{folder}")
        self.downloaded: list[str] = []
        self.num_listings = 0
        self.fails_at: str | None = None
        self.extra: dict[str, Version] = {}

    def list(self) -> dict[str, Version]:
        self.num_listings += 1
        return {**super().list(), **self.extra}

    def download(self, name: str, target: Path) -> Version:
        self.downloaded.append(Path(name).name)
        if Path(name).name == self.fails_at:
            target.parent.mkdir(exist_ok=True)
            target.write_text("b")
            raise PartialError("connection reset by peer")
        return super().download(name, target)


@pytest.fixture
def bucket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    bucket = Bucket(folder)
    monkeypatch.setattr(fetch, "RemoteFolder", lambda uri: bucket)
    return bucket


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_data_and_encoders_are_read_by_uri(
    tiny_data: Path, tiny_encoder: Path, cache: Path
) -> None:
    by_path = read_dataset(from_flat({"data.dir": str(tiny_data)}))
    by_uri = read_dataset(from_flat({"data.dir": f"file://{tiny_data}"}))
    assert by_uri.fingerprint == by_path.fingerprint
    assert len(load_tokenizer(f"file://{tiny_encoder}")) == len(load_tokenizer(tiny_encoder))
    assert len(list(cache.iterdir())) == 2


def test_concurrent_threads_share_one_copy(bucket: Bucket, folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(fetched, ["s3://bucket/data"] * 4))
    (copy,) = found
    assert contents(copy) == contents(folder) == {"a.csv": "a", "deep/b.csv": "bb"}
    assert fetched("s3://bucket/data") == copy
    assert sorted(bucket.downloaded) == ["a.csv", "b.csv"]


def test_a_changed_folder_is_copied_again(bucket: Bucket, folder: Path) -> None:
    before = fetched("s3://bucket/data")
    (folder / "a.csv").write_text("A")  # the size does not change
    os.utime(folder / "a.csv", (1e9, 1e9))
    after = fetched("s3://bucket/data")
    assert contents(after)["a.csv"] == "A"
    assert contents(before)["a.csv"] == "a"
    assert fetched("s3://other/data") != after


def test_an_interrupted_copy_is_removed(bucket: Bucket, folder: Path, cache: Path) -> None:
    bucket.fails_at = "b.csv"
    with pytest.raises(PartialError, match=r"connection reset by peer"):
        fetched("s3://bucket/data")
    assert not list(cache.rglob("*.csv"))
    (home,) = cache.iterdir()
    (home / ".tmp-killed").mkdir()  # left by a killed process
    bucket.fails_at = None
    assert contents(fetched("s3://bucket/data")) == contents(folder)
    assert not (home / ".tmp-killed").exists()


def test_a_file_that_changes_during_the_download_is_an_error(
    bucket: Bucket, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = bucket.list()
    monkeypatch.setattr(bucket, "list", lambda: listed)
    (folder / "a.csv").write_text("b")
    with pytest.raises(PartialError, match=r"a.csv changed during the download"):
        fetched("s3://bucket/data")
    assert not list(cache.rglob("*.csv"))


def test_a_sweep_reads_only_the_version_that_it_started_with(
    bucket: Bucket, folder: Path, cache: Path
) -> None:
    """A machine with a copy uses it; on a machine without one, a changed folder is an error."""
    uri = "s3://bucket/data"
    with expecting(Inputs({}, {uri: listing(uri)})):
        first = fetched(uri)
        (folder / "deep" / "b.csv").write_text("BB")
        assert fetched(uri) == first
        assert bucket.num_listings == 1
        assert contents(first)["deep/b.csv"] == "bb"
        shutil.rmtree(cache)
        with pytest.raises(ChangedInputError, match=f"began: {uri}/deep/b.csv\nfix: restore"):
            fetched(uri)
    assert contents(fetched(uri))["deep/b.csv"] == "BB"  # outside of the sweep


def test_a_single_file_is_downloaded_alone(bucket: Bucket, folder: Path, tmp_path: Path) -> None:
    found = local_file("s3://bucket/data/a.csv")
    assert found.read_text() == "a"
    assert found.name == "a.csv"
    assert bucket.downloaded == ["a.csv"]
    assert bucket.num_listings == 0
    assert local_file(str(tmp_path / "b")) == tmp_path / "b"


@pytest.mark.parametrize("name", ["../evil", "deep/../../evil", "%2e%2e/evil"])
def test_names_outside_of_the_folder_are_refused(
    bucket: Bucket, folder: Path, cache: Path, name: str
) -> None:
    bucket.extra = {name: Version(1, "x")}
    with pytest.raises(IntegrityError, match="is not a path inside"):
        fetched("s3://bucket/data")
    assert not list(cache.parent.rglob("evil"))


def test_a_uri_with_credentials_is_refused() -> None:
    with pytest.raises(ConfigError, match="the URI holds credentials") as caught:
        fetched("s3://me:hunter2@bucket/folder")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["data.dir", "model.encoder"])
def test_settings_with_credentials_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: the URI holds credentials") as caught:
        from_flat({key: "s3://me:hunter2@bucket/folder"})
    assert "hunter2" not in str(caught.value)
