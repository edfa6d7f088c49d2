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


def test_in_the_background_a_folder_goes_up_manifest_last_and_is_waited_for(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, may_go_on = machines.copy("here"), machines.copy("there"), threading.Event()
    put, top = here.store.put, here.root / "t"

    def waiting(name: str, content: Any) -> str:
        assert may_go_on.wait(20)
        return put(name, content)

    monkeypatch.setattr(here.store, "put", waiting)
    with here.in_background(top):
        write_folder(top / "weights")
        write_atomic(top / "record", "names the weights")
        assert not here.is_settled(top)
        assert machines.names() == []
        may_go_on.set()
        here.settle(top)
        assert here.is_settled(top)
        there.fetch(there.root / "t" / "weights")
        assert (there.root / "t" / "weights" / "below" / "b").read_text() == "b"
        remove_folder(top / "weights")
    assert machines.names() == ["t/record"]


def test_a_folder_that_is_on_its_way_is_not_brought_as_it_was(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that another process left under the name are deleted first."""
    before, here = machines.copy("before"), machines.copy("here")
    write_folder(before.root / "t" / "weights")
    entries = here.store.entries

    def ask_late(name: str) -> dict[str, Entry]:  # the lane is still busy with its first request
        if threading.current_thread().name.startswith("uploads"):
            time.sleep(0.2)
        return entries(name)

    monkeypatch.setattr(here.store, "entries", ask_late)
    with here.in_background(here.root / "t"):
        remove_folder(here.root / "t" / "weights")
        with atomic_folder(here.root / "t" / "weights") as temporary:
            (temporary / "a").write_text("new")
            write_manifest(temporary, {})
        here.fetch(here.root / "t" / "weights")
        assert (here.root / "t" / "weights" / "a").read_text() == "new"
    assert machines.names() == ["t/weights/a", "t/weights/manifest.json"]


@pytest.fixture
def sent(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The requests of a machine `here` for a large file, by name."""
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


def test_what_is_in_the_store_is_copied_there_and_not_sent_again(
    machines: Machines, sent: list[str]
) -> None:
    """The copy counts as downloaded; small files are uploaded."""
    here = machines.copy("here")
    for name in "abc":
        write_atomic(here.root / name, "the same encoder")
        write_atomic(here.root / f"small-{name}", "the same")
    write_atomic(here.root / "d", "another encoder.")
    assert sent == ["a", "small-a", "small-b", "small-c", "d"]
    assert here._has("c", here.store.entries("")["c"])


@pytest.mark.parametrize("change", ["gone", "replaced", "refused", "Azure's"])
def test_what_cannot_be_copied_is_sent(
    machines: Machines, sent: list[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    here = machines.copy("here")
    write_atomic(here.root / "a", "the same encoder")
    if change == "gone":
        remove_file(here.root / "a")
    elif change == "replaced":
        (here.root / "a").write_bytes(b"damaged and long")
        machines.memory.put("a", b"damaged and long")
    elif change == "refused":
        monkeypatch.setattr(here.store, "copy", refuse)
    else:
        here.store.uri = "az://bucket"
    write_atomic(here.root / "b", "the same encoder")
    assert sent == ["a", "b"]


def refuse(*_: Any) -> None:
    raise StorageError("no copies here")
