import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem import atomic
from mlflow_setup.filesystem.atomic import (
    DeferredSync,
    atomic_folder,
    is_full,
    must_write,
    remove_folder,
    sync_file,
    write_atomic,
    write_whole,
)
from mlflow_setup.filesystem.storage import (
    TEMPORARY,
    disk_bytes,
    num_bytes,
    remove_leftovers,
    storage_of,
)


@pytest.mark.parametrize("content", ["", "ä\n", b"\x00\xff" * 5000])
def test_write_atomic_writes_and_replaces(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "new" / "folder" / "file"
    for _ in range(2):
        write_atomic(path, content)
        expected = content.encode() if isinstance(content, str) else content
        assert path.read_bytes() == expected
    assert [found.name for found in path.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()  # a folder with that name makes the rename fail
    with pytest.raises(OSError, match="file"):
        write_atomic(path, "new")
    assert list(tmp_path.iterdir()) == [path]


def test_files_and_folders_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_atomic(tmp_path / "file", "secret")
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "part").write_text("secret")
    finally:
        os.umask(before)
    for name in ("file", "folder"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) & 0o077 == 0


def test_atomic_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "parent" / "target"
    with atomic_folder(target) as temporary:
        (temporary / "below").mkdir()
        (temporary / "below" / "file").write_text("x")
        assert not target.exists()
    assert (target / "below" / "file").read_text() == "x"
    assert list(target.parent.iterdir()) == [target]


def test_atomic_folder_is_removed_after_an_error(tmp_path: Path) -> None:
    def write_half() -> None:
        with atomic_folder(tmp_path / "target") as temporary:
            (temporary / "file").write_text("x")
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_atomic_folder_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(FileExistsError, match="target exists"), atomic_folder(tmp_path / "target"):
        pass


def test_remove_leftovers_removes_only_temporary_files(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY}file").write_text("x")
    (tmp_path / f"{TEMPORARY}folder" / "below").mkdir(parents=True)
    (tmp_path / f"{TEMPORARY}link").symlink_to(tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").exists()
    remove_leftovers(tmp_path / "absent")


def test_remove_folder(tmp_path: Path) -> None:
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    remove_folder(tmp_path / "folder")
    remove_folder(tmp_path / "absent")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def chained(error: Exception) -> Exception:
    """An error that a writer raises while it handles `error`."""
    raised = RuntimeError("unexpected pos 64 vs 0")
    raised.__context__ = error
    return raised


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (chained(OSError(errno.ENOSPC, "x")), True),
        (RuntimeError("Io(Os { code: 28, message: No space left on device })"), True),
        (OSError(errno.EACCES, "x"), False),
        (chained(ValueError("x")), False),
        (None, False),
    ],
)
def test_a_full_disk_is_recognised_in_every_writers_error(
    error: Exception | None, expected: bool
) -> None:
    assert is_full(error) is expected


def test_must_write_raises_a_config_error_when_the_disk_is_full(tmp_path: Path) -> None:
    message = r"cannot be written: No space"
    with pytest.raises(ConfigError, match=message) as caught, must_write(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(tmp_path / "file") in caught.value.problem
    assert "make room" in str(caught.value)


def test_num_bytes_of_a_file_and_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "one").write_bytes(b"12345")
    (tmp_path / "two").write_bytes(b"123")
    assert num_bytes(tmp_path / "two") == 3
    assert num_bytes(tmp_path) == 8
    assert num_bytes(tmp_path / "absent") == 0


def test_disk_bytes_counts_hard_links_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"x" * 12)
    for name in ("a/two", "three"):
        (tmp_path / name).hardlink_to(tmp_path / "a" / "one")
    (tmp_path / "other").write_bytes(b"x")
    assert (disk_bytes(tmp_path), num_bytes(tmp_path)) == (13, 37)
    assert disk_bytes(tmp_path / "a") == 8
    assert disk_bytes(tmp_path / "three") == storage_of(tmp_path).num_bytes(tmp_path / "three") == 4


def test_deferred_sync_syncs_in_batches_and_all_files_by_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, folders = list[Path](), list[Path]()
    has_begun, may_continue = threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        files.append(path)
        has_begun.set()
        assert may_continue.wait(10)

    monkeypatch.setattr(atomic, "sync_file", slow)
    monkeypatch.setattr(atomic, "sync_folder", folders.append)
    paths = [tmp_path / name for name in "abc"]
    with DeferredSync() as disk:
        disk.add(paths[0])
        assert has_begun.wait(10)
        for path in paths[1:]:  # while the first is being synced
            disk.add(path)
        may_continue.set()
    assert files[0] == paths[0]
    assert set(files) == set(paths)
    assert folders == [tmp_path, tmp_path]


def test_deferred_sync_warns_of_a_failed_sync_and_skips_a_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(path: Path) -> None:
        if path.name == "broken":
            raise OSError(5, "Input/output error")
        sync_file(path)

    monkeypatch.setattr(atomic, "sync_file", broken)
    with DeferredSync() as disk:
        disk.add(tmp_path / "missing")
        disk.add(tmp_path / "broken")
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "broken is not on disk: " in warning


def test_write_whole_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda *_: pytest.fail("fsync was called"))
    for content in ("one", "another"):
        write_whole(tmp_path / "file", content)
        assert (tmp_path / "file").read_text() == content
    assert len(list(tmp_path.iterdir())) == 1
