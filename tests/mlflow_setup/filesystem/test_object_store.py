"""Folders at URIs: listings, versions, downloads and errors."""

from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError
from obstore.store import MemoryStore

from mlflow_setup.errors import ConfigError, PartialError
from mlflow_setup.filesystem import object_store
from mlflow_setup.filesystem.object_store import ObjectStore, RemoteFolder, Version
from mlflow_setup.filesystem.opening import split_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "a.csv").write_text("a")
    (tmp_path / "data" / "deep" / "b.csv").write_text("bb")
    return tmp_path / "data"


def test_files_are_listed_with_their_versions_and_downloaded(folder: Path, tmp_path: Path) -> None:
    remote = RemoteFolder(f"file://{folder}")
    listed = remote.list()
    assert {name: version.num_bytes for name, version in listed.items()} == {
        "a.csv": 1,
        "deep/b.csv": 2,
    }
    assert remote.version("a.csv") == listed["a.csv"]
    target = tmp_path / "here" / "b.csv"
    assert remote.download("deep/b.csv", target) == listed["deep/b.csv"]
    assert target.read_text() == "bb"
    (folder / "deep" / "b.csv").write_text("BB")  # of the same size
    assert remote.list()["deep/b.csv"] != listed["deep/b.csv"]
    assert remote.download("deep/b.csv", target) == remote.list()["deep/b.csv"]


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        ("file:///nowhere/at/all", PartialError, "no such folder"),
        ("ftp://host/data", ConfigError, "no storage URI that can be read\nfix: use one of s3://"),
        ("http://host/data", ConfigError, "no storage URI that can be read"),
        ("file://relative", ConfigError, "no storage URI"),
        ("s3://", ConfigError, "no storage URI"),
        ("s3://bucket/data?region=x", ConfigError, "only a bucket and a folder\nfix: .*AWS_REGION"),
        ("az://container/data", ConfigError, "fix: set AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_an_invalid_storage_uri_is_refused(
    uri: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(error, match=message):
        RemoteFolder(uri)


class FailingStore:
    """A store that always raises an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def list(self, folder: str | None) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NotFoundError("not found"), "no such bucket, folder or file\nfix: correct the URI"),
        (
            BaseError("... non-2xx status code: 404 Not Found: <?xml"),
            "there is no such bucket\nfix",
        ),
        (PermissionDeniedError("403"), "may not be read: 403\nfix: .*AWS_ACCESS_KEY_ID"),
        (
            BaseError(
                "list in 15 ms - status code: 403 Forbidden: <?xml version='1.0'?><Error>"
                "<Code>InvalidAccessKeyId</Code>\n<Message>No such key.\nOf s3://me:hunter2@b"
                "</Message>"
            ),
            r"may not be read: 403 Forbidden: InvalidAccessKeyId: No such key.\nfix: give this",
        ),
        (BaseError("PUT http://169.254.169.254/latest"), "cannot be read now.*\nfix: give this m"),
        (
            BaseError("curl: unreachable\n\nDebug source"),
            "cannot be read now: curl: unreachable\nfix: try again",
        ),
        (BaseError("s3://me:hunter2@b"), r"s3://\*\*\*@b"),
    ],
)
def test_errors_of_a_store_say_how_to_fix_them(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "_open", lambda uri: FailingStore(error))
    with pytest.raises(PartialError, match=message) as caught:
        RemoteFolder("s3://bucket/data").list()
    assert "hunter2" not in str(caught.value)


class AzureStore:
    """A store that deletes objects one by one, and stops at the first that is missing."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)

    def delete(self, given: str | list[str]) -> None:
        for name in [given] if isinstance(given, str) else given:
            if name not in self.names:
                raise NotFoundError(name)
            self.names.remove(name)


def test_deleting_a_missing_object_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    store = AzureStore("a", "c", "d")
    monkeypatch.setattr(object_store, "_open", lambda uri: store)
    ObjectStore("az://container/s").delete(["a", "b", "c"])
    assert store.names == {"d"}


class EventuallyConsistentStore:
    """A store in memory in which an object is listed but not found for `left` requests."""

    def __init__(self, num_requests: int) -> None:
        self.memory, self.left = MemoryStore(), num_requests
        self.memory.put("s/a", b"a")
        self.is_deleted = False

    def get(self, name: str) -> Any:
        if self.left:
            self.left -= 1
            raise NotFoundError(name)
        return self.memory.get(name)

    def list(self, folder: str | None) -> Any:
        return [] if self.is_deleted else self.memory.list(folder)


@pytest.mark.parametrize("kind", [ObjectStore, RemoteFolder])
def test_a_listed_object_is_requested_until_it_is_found(
    kind: type[ObjectStore | RemoteFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R26: missing after list."""
    store = EventuallyConsistentStore(3)
    waits: list[float] = []
    monkeypatch.setattr(object_store, "_open", lambda uri: store)
    monkeypatch.setattr("time.sleep", waits.append)
    assert kind("s3://bucket").download("s/a", tmp_path / "a")
    assert (tmp_path / "a").read_text() == "a"
    assert waits == sorted(waits)
    assert len(waits) == 3
    store.left = 99
    with pytest.raises(
        PartialError, match="cannot be read now: the object is listed but cannot be found"
    ):
        kind("s3://bucket").download("s/a", tmp_path / "a")
    assert store.left == 99 - len(object_store._CONSISTENCY_WAITS)


def test_an_object_deleted_after_the_listing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EventuallyConsistentStore(99)
    store.is_deleted = True
    monkeypatch.setattr(object_store, "_open", lambda uri: store)
    monkeypatch.setattr("time.sleep", None)
    assert ObjectStore("s3://bucket").download("s/a", tmp_path / "a") is None
    with pytest.raises(PartialError, match="no such bucket, folder or file"):
        RemoteFolder("s3://bucket").download("s/a", tmp_path / "a")


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartialError, match="no folder with files\nfix: name the folder"):
        RemoteFolder(f"file://{tmp_path}").list()


def test_split_file_gives_folder_and_name() -> None:
    assert split_file("s3://bucket/deep/a.csv") == ("s3://bucket/deep", "a.csv")
    for uri in ("s3://bucket", "s3://bucket/deep/"):
        with pytest.raises(ConfigError, match="not the URI of a file"):
            split_file(uri)


def test_a_version_ignores_the_quotes_of_an_etag() -> None:
    quoted = {"size": 1, "e_tag": '"abc"', "last_modified": None}
    assert object_store._version(quoted) == Version(1, "abc")  # listings of Azure do not quote
