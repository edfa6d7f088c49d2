"""Working copies of one store: other machines see what one machine writes, atomically."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError
from patience import wait_until
from stores import URI, Machines, write_folder

from mlflow_setup.errors import ConfigError, PartialError, StorageError
from mlflow_setup.filesystem import working_copy
from mlflow_setup.filesystem.atomic import remove_file, remove_folder, write_atomic
from mlflow_setup.filesystem.opening import storage_folder
from mlflow_setup.filesystem.storage import storage_of


def test_files_written_on_one_machine_are_pulled_by_another(machines: Machines) -> None:
    here, there = machines.copy("here"), machines.copy("there")
    write_atomic(here.root / "s" / "one.json", "1")
    write_atomic(here.root / "s" / "deep" / "two.json", "2")
    write_atomic(here.root / "s" / "private", "3", publish=False)
    assert machines.names() == ["s/deep/two.json", "s/one.json"]
    there.pull(there.root / "s", "*.json")
    assert (there.root / "s" / "one.json").read_text() == "1"
    assert not (there.root / "s" / "deep").exists()
    there.pull(there.root / "s", "*/*.json")
    assert (there.root / "s" / "deep" / "two.json").read_text() == "2"
    assert here.address(here.root / "s" / "one.json") == f"{URI}/s/one.json"
    assert here.names(here.root) == ["s"]
    assert here.names(here.root / "s") == ["deep"]


def test_pull_replaces_and_removes_files(machines: Machines) -> None:
    here, there = machines.copy("here"), machines.copy("there")
    for name in ("one", "two"):
        write_atomic(here.root / "s" / name, name)
    there.pull(there.root / "s", "*")
    write_atomic(here.root / "s" / "one", "ONE")  # of the same size
    remove_file(here.root / "s" / "two")
    there.pull(there.root / "s", "*")
    assert [path.name for path in (there.root / "s").iterdir()] == ["one"]
    assert (there.root / "s" / "one").read_text() == "ONE"


def test_files_that_are_up_to_date_are_not_downloaded_again(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(machines.copy("here").root / "s" / "one", "1")
    there = machines.copy("there")
    there.pull(there.root / "s", "*")
    again = machines.copy("there")  # another process
    monkeypatch.setattr(again.store, "download", None)
    again.pull(again.root / "s", "*")
    (there.root / "s" / "one").write_text("damaged here")
    monkeypatch.undo()
    again.pull(again.root / "s", "*")
    assert (there.root / "s" / "one").read_text() == "1"


def test_pull_removes_files_that_another_process_pulled(machines: Machines) -> None:
    """But a file that was just written stays, because it is still being uploaded."""
    here, there = machines.copy("here"), machines.copy("there")
    for name in ("one", "two"):
        write_atomic(here.root / "s" / name, name)
    there.pull(there.root / "s", "*")
    write_atomic(there.root / "s" / "new", "2", publish=False)
    (there.root / ".index.json").unlink()
    other = machines.copy("there")
    os.utime(other.root / "s" / "one", (0, 0))
    remove_file(here.root / "s" / "one")
    other.pull(other.root / "s", "*")
    assert {path.name for path in (other.root / "s").iterdir()} == {"new", "two"}


def test_files_are_downloaded_concurrently(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = machines.copy("here"), machines.copy("there")
    for number in range(40):
        here.store.put(f"s/{number}", b"1")
    together, download = threading.Barrier(40, timeout=20), there.store.download

    def waiting(*given: Any) -> str | None:
        together.wait()
        return download(*given)

    monkeypatch.setattr(there.store, "download", waiting)
    there.pull(there.root / "s", "*")
    assert len(list((there.root / "s").iterdir())) == 40


def test_a_large_index_is_written_only_after_many_changes(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index grows with the working copy, and a driver pulls after every epoch."""
    here, there = machines.copy("here"), machines.copy("there")
    for number in range(60):
        here.store.put(f"s/{number}", b"1")
    written: list[int] = []
    monkeypatch.setattr(there, "_write_index", lambda: written.append(len(there._known)))
    there.pull(there.root / "s", "*")
    for number in range(60, 70):
        here.store.put(f"s/{number}", b"1")
        there.pull(there.root / "s", "*")
    assert written == [60, 64, 68]


@pytest.mark.parametrize("manifest", [True, False])
def test_a_folder_is_fetched_with_all_its_files(machines: Machines, manifest: bool) -> None:
    here, there = machines.copy("here"), machines.copy("there")
    write_folder(here.root / "t" / "weights", manifest=manifest)
    there.fetch(there.root / "t" / "weights")
    found = {path.name for path in (there.root / "t" / "weights").rglob("*") if path.is_file()}
    assert found == {"a", "b", *(["manifest.json"] if manifest else [])}
    remove_folder(here.root / "t" / "weights")
    assert machines.names() == []


@pytest.mark.parametrize("manifest", [True, False])
def test_a_folder_is_seen_by_others_only_when_its_upload_is_complete(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, manifest: bool
) -> None:
    """R26: whichever write fails."""
    for num_writes in range(5):
        here = machines.copy(f"here-{num_writes}")
        left = iter([True] * num_writes + [False] * 9)
        put = here.store.put

        def failing(name: str, content: Any, put: Any = put, left: Any = left) -> str:
            if not next(left):
                raise StorageError("failed")
            return str(put(name, content))

        monkeypatch.setattr(here.store, "put", failing)
        folder = here.root / str(num_writes) / "weights"
        try:
            write_folder(folder, manifest=manifest)
            is_complete = True
        except StorageError:
            is_complete = False
        there = machines.copy("there")
        seen = there.root / str(num_writes) / "weights"
        there.pull(seen.parent, "*/manifest.json")
        there.fetch(seen)
        assert seen.exists() == is_complete == (num_writes >= 3)
        if is_complete:
            assert (seen / "below" / "b").read_text() == "b"


def test_removing_a_folder_deletes_its_manifest_first(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = machines.copy("here"), machines.copy("there")
    write_folder(here.root / "weights")
    deleted: list[str] = []
    delete = here.store.delete
    monkeypatch.setattr(here.store, "delete", lambda names: (deleted.extend(names), delete(names)))
    remove_folder(here.root / "weights")
    assert deleted[0] == "weights/manifest.json"
    there.fetch(there.root / "weights")
    assert not (there.root / "weights").exists()


def test_begin_keeps_only_published_files(machines: Machines) -> None:
    here = machines.copy("here")
    write_atomic(here.root / "s" / "published", "1")
    write_atomic(here.root / "s" / "private", "2", publish=False)
    here.begin(here.root / "s")
    here.pull(here.root / "s", "*")
    assert [path.name for path in (here.root / "s").iterdir()] == ["published"]


def test_begin_does_not_download_published_files_again(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver lists the store before it calls `begin`."""
    here = machines.copy("here")
    here.store.put("s/one", b"1")
    here.pull(here.root / "s", "*")
    write_atomic(here.root / "s" / "two", "2")
    monkeypatch.setattr(here.store, "download", None)
    here.begin(here.root / "s")
    here.pull(here.root / "s", "*")
    assert {path.name for path in (here.root / "s").iterdir()} == {"one", "two"}


def test_a_folder_is_removed_when_its_manifest_is_no_longer_published(machines: Machines) -> None:
    """Its other files match no pattern, but without its manifest the folder is incomplete."""
    here, there = machines.copy("here"), machines.copy("there")
    write_folder(here.root / "t" / "weights" / "0001")
    there.pull(there.root / "t", "weights/*/manifest.json")
    there.fetch(there.root / "t" / "weights" / "0001")
    remove_folder(here.root / "t" / "weights" / "0001")
    write_folder(here.root / "t" / "weights" / "0002")
    there.pull(there.root / "t", "weights/*/manifest.json")
    assert [path.name for path in (there.root / "t" / "weights").iterdir()] == ["0002"]


def test_a_flag_is_seen_on_other_machines(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working_copy, "FLAG_POLL_SECONDS", 0.01)
    here, there = machines.copy("here"), machines.copy("there")
    flag, seen = here.root / "s" / "stop", there.root / "s" / "stop"
    assert not there.is_raised(seen)
    here.raise_flag(flag)
    wait_until(lambda: there.is_raised(seen))
    here.lower_flag(flag)
    wait_until(lambda: not there.is_raised(seen))
    there.lower_flag(seen)


def test_an_unreachable_store_raises_an_os_error(machines: Machines) -> None:
    copy = machines.copy("here")
    copy.store._store = Unreachable()
    with pytest.raises(OSError, match="cannot be written now: unreachable"):
        write_atomic(copy.root / "s" / "one", "1")
    with pytest.raises(PartialError, match="cannot be read now: unreachable\nfix: try again"):
        copy.pull(copy.root / "s", "*")


class Unreachable:
    def put(self, *_: Any, **__: Any) -> None:
        raise GenericError("unreachable")

    def list(self, *_: Any) -> None:
        raise GenericError("unreachable")


def test_the_storage_folder_of_a_uri_and_of_a_path(machines: Machines, tmp_path: Path) -> None:
    first, second = storage_folder(URI), storage_folder(f"{URI}/")
    assert storage_of(first / "s").is_remote
    assert storage_folder(URI, "scratch") != first
    assert storage_of(second).address(second / "s") == f"{URI}/s"
    assert storage_folder(str(tmp_path)) == storage_folder(f"file://{tmp_path}") == tmp_path
    assert storage_folder(Path(URI)) == first  # typed as a path, it has one slash
    assert storage_folder(Path(f"file://{tmp_path}")) == tmp_path
    assert not storage_of(tmp_path / "elsewhere").is_remote
    with pytest.raises(ConfigError, match="holds credentials"):
        storage_folder("s3://me:secret@bucket/x")
    with pytest.raises(ConfigError, match="not the URI of a local folder"):
        storage_folder("file://host/x")
