"""Background uploads, and copies within the store instead of uploads."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from stores import Machines, write_folder

from mlflow_setup.errors import StorageError
from mlflow_setup.filesystem import working_copy
from mlflow_setup.filesystem.atomic import (
    atomic_folder,
    remove_file,
    remove_folder,
    write_atomic,
)
from mlflow_setup.filesystem.manifest import write_manifest
from mlflow_setup.filesystem.object_store import Entry


def test_settle_waits_for_a_folder_that_is_uploaded_in_the_background(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, may_continue = machines.copy("here"), machines.copy("there"), threading.Event()
    put, top = here.store.put, here.root / "t"

    def waiting(name: str, content: Any) -> str:
        assert may_continue.wait(20)
        return put(name, content)

    monkeypatch.setattr(here.store, "put", waiting)
    with here.in_background(top):
        write_folder(top / "weights")
        write_atomic(top / "record", "names the weights")
        assert not here.is_settled(top)
        assert machines.names() == []
        may_continue.set()
        here.settle(top)
        assert here.is_settled(top)
        there.fetch(there.root / "t" / "weights")
        assert (there.root / "t" / "weights" / "below" / "b").read_text() == "b"
        remove_folder(top / "weights")
    assert machines.names() == ["t/record"]


def test_a_folder_is_fetched_only_after_its_own_upload(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that another process left under the name are deleted first."""
    before, here = machines.copy("before"), machines.copy("here")
    write_folder(before.root / "t" / "weights")
    entries = here.store.entries

    def late(name: str) -> dict[str, Entry]:  # the background thread is slow
        if threading.current_thread().name.startswith("uploads"):
            time.sleep(0.2)
        return entries(name)

    monkeypatch.setattr(here.store, "entries", late)
    with here.in_background(here.root / "t"):
        remove_folder(here.root / "t" / "weights")
        with atomic_folder(here.root / "t" / "weights") as temporary:
            (temporary / "a").write_text("new")
            write_manifest(temporary, {})
        here.fetch(here.root / "t" / "weights")
        assert (here.root / "t" / "weights" / "a").read_text() == "new"
    assert machines.names() == ["t/weights/a", "t/weights/manifest.json"]


@pytest.fixture
def uploads(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the files that the machine `here` uploads. Files of 10 bytes are large enough to be
    copied within the store."""
    monkeypatch.setattr(working_copy, "MIN_COPY_BYTES", 10)
    here, names = machines.copy("here"), list[str]()
    put = here.store.put
    monkeypatch.setattr(
        here.store, "put", lambda name, content: (names.append(name), put(name, content))[1]
    )
    monkeypatch.setattr(machines, "copy", lambda _: here)
    yield names
    for name in machines.names():
        assert bytes(machines.memory.get(name).bytes()) == (here.root / name).read_bytes()


def test_content_that_is_in_the_store_is_copied_there_and_not_uploaded_again(
    machines: Machines, uploads: list[str]
) -> None:
    """The copy counts as up to date here; small files are uploaded each time."""
    here = machines.copy("here")
    for name in "abc":
        write_atomic(here.root / name, "the same encoder")
        write_atomic(here.root / f"small-{name}", "the same")
    write_atomic(here.root / "d", "another encoder.")
    assert uploads == ["a", "small-a", "small-b", "small-c", "d"]
    assert here._has("c", here.store.entries("")["c"])


@pytest.mark.parametrize("change", ["removed", "replaced", "failing", "on Azure"])
def test_content_that_cannot_be_copied_is_uploaded(
    machines: Machines, uploads: list[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    here = machines.copy("here")
    write_atomic(here.root / "a", "the same encoder")
    if change == "removed":
        remove_file(here.root / "a")
    elif change == "replaced":
        (here.root / "a").write_bytes(b"damaged and long")
        machines.memory.put("a", b"damaged and long")
    elif change == "failing":
        monkeypatch.setattr(here.store, "copy", fail)
    else:
        here.store.uri = "az://bucket"
    write_atomic(here.root / "b", "the same encoder")
    assert uploads == ["a", "b"]


def fail(*_: Any) -> None:
    raise StorageError("no copies here")
