"""What is put on disk later is whole at once, and on disk at the end."""

import os
import threading
from pathlib import Path

import pytest

from mlflow_setup.filesystem import deferred_sync
from mlflow_setup.filesystem.atomic import sync_file, write_whole
from mlflow_setup.filesystem.deferred_sync import DeferredSync


def test_what_has_come_together_is_put_on_disk_at_once_and_at_the_end_all_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, folders = list[Path](), list[Path]()
    is_first, may_go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        files.append(path)
        is_first.set()
        assert may_go_on.wait(10)

    monkeypatch.setattr(deferred_sync, "sync_file", slow)
    monkeypatch.setattr(deferred_sync, "sync_folder", folders.append)
    paths = [tmp_path / name for name in "abc"]
    with DeferredSync() as disk:
        disk.add(paths[0])
        assert is_first.wait(10)
        for path in paths[1:]:  # while the disk is at the first
            disk.add(path)
        may_go_on.set()
    assert files[0] == paths[0]
    assert set(files) == set(paths)
    assert folders == [tmp_path, tmp_path]


def test_a_disk_that_fails_and_a_file_that_is_gone_hold_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(path: Path) -> None:
        if path.name == "broken":
            raise OSError(5, "Input/output error")
        sync_file(path)

    monkeypatch.setattr(deferred_sync, "sync_file", broken)
    with DeferredSync() as disk:
        disk.add(tmp_path / "gone")
        disk.add(tmp_path / "broken")
    (said,) = [record.getMessage() for record in caplog.records]
    assert "broken is not on disk: " in said


def test_a_file_is_whole_before_the_disk_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda *_: pytest.fail("the disk was waited for"))
    for content in ("one", "another"):
        write_whole(tmp_path / "file", content)
        assert (tmp_path / "file").read_text() == content
    assert len(list(tmp_path.iterdir())) == 1
