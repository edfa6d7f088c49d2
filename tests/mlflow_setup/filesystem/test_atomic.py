import errno
import json
import os
import re
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.filesystem.atomic import (
    MANIFEST,
    TEMPORARY,
    atomic_folder,
    find_damage,
    inside,
    is_full,
    must_write,
    num_bytes,
    remove_folder,
    remove_leftovers,
    safe_name,
    sha256_file,
    write_atomic,
    write_manifest,
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
    path.mkdir()  # a folder in its place: the rename fails
    with pytest.raises(OSError, match="file"):
        write_atomic(path, "new")
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_atomic(tmp_path / "file", "secret")
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "part").write_text("secret")
    finally:
        os.umask(before)
    for name in ("file", "folder"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) & 0o077 == 0


def test_atomic_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "parent" / "target"
    with atomic_folder(target) as temporary:
        (temporary / "below").mkdir()
        (temporary / "below" / "file").write_text("x")
        assert not target.exists()
    assert (target / "below" / "file").read_text() == "x"
    assert list(target.parent.iterdir()) == [target]


def test_atomic_folder_leaves_nothing_after_an_error(tmp_path: Path) -> None:
    def write_half() -> None:
        with atomic_folder(tmp_path / "target") as temporary:
            (temporary / "file").write_text("x")
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_atomic_folder_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(FileExistsError, match="target exists"), atomic_folder(tmp_path / "target"):
        pass


def test_remove_leftovers_removes_only_those(tmp_path: Path) -> None:
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


def test_sha256_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_a_manifest_proves_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"")
    write_manifest(tmp_path, {"epoch": 3})
    assert find_damage(tmp_path, {"epoch": 3}) is None
    listed = json.loads((tmp_path / MANIFEST).read_text())
    assert set(listed["files"]) == {"a", "b"}
    assert listed["files"]["a"] == {"size": 1, "sha256": sha256_file(tmp_path / "a")}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "a").write_bytes(b"2"), "changed since it was written: a"),
        (lambda folder: (folder / "a").write_bytes(b""), "changed since it was written: a"),
        (lambda folder: (folder / "a").unlink(), "missing or not in manifest.json: a"),
        (lambda folder: write_atomic(folder / "c" / "d", ""), "not in manifest.json: c/d"),
        (lambda folder: (folder / "c").symlink_to(folder.parent), "not in manifest.json: c"),
        (lambda folder: (folder / "b").rename(folder / "a"), "manifest.json: b"),
        (lambda folder: _link(folder / "a", folder.parent / "x"), "changed .*: a"),
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda folder: _link(folder / MANIFEST, folder / MANIFEST), "manifest.json is missing"),
        (lambda folder: (folder / MANIFEST).write_bytes(b"\xff"), "not a manifest"),
        (lambda folder: (folder / MANIFEST).write_text("[" * 100_000), "not a manifest"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "not a manifest"),
        (lambda folder: (folder / MANIFEST).write_text('{"epoch": 3}'), "not a manifest: 'files'"),
        (lambda folder: (folder / MANIFEST).write_text('{"files": {"a": 1, "b": 2}}'), "is of {}"),
        (
            lambda folder: (folder / MANIFEST).write_text(
                '{"epoch": 3, "files": {"a": 1, "b": 2}}'
            ),
            "not a manifest",
        ),
        (lambda folder: _write_again(folder, {"epoch": 4}), r"is of \{'epoch': 4\}, not of"),
    ],
)
def test_damage_is_named(tmp_path: Path, harm: Callable[[Path], object], message: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "x").write_bytes(b"1")  # what `a` holds
    (folder / "a").write_bytes(b"1")
    (folder / "b").write_bytes(b"3")
    write_manifest(folder, {"epoch": 3})
    harm(folder)
    found = find_damage(folder, {"epoch": 3})
    assert found is not None
    assert re.search(message, found)


def test_what_cannot_be_read_now_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    write_manifest(tmp_path, {})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(IntegrityError, match=r"cannot be read now: .*Too many open files"):
            find_damage(tmp_path, {})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert find_damage(tmp_path, {}) is None


def _link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def _write_again(folder: Path, facts: dict[str, int]) -> None:
    (folder / MANIFEST).unlink()
    write_manifest(folder, facts)


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "0007", "x" * 100])
def test_safe_names(name: str) -> None:
    assert safe_name(name, "sweep") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "-a", "a/b", "a\\b", "a..b", "a b", "ä", "a\n", "a\0", "x" * 101]
)
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"sweep .* is not a name\nfix: use 1 to 100 letters"):
        safe_name(name, "sweep")


@pytest.mark.parametrize("relative", ["a", "a/b.json", "a.b/..c", "100%", "ä/0007.parquet"])
def test_inside_gives_paths_below_the_root(tmp_path: Path, relative: str) -> None:
    assert inside(tmp_path, relative) == (tmp_path / relative).resolve()


@pytest.mark.parametrize(
    "relative",
    [
        *("", ".", "..", "/", "/etc/passwd", "a/../b", "a//b", "a/", "./a", "~/a", "file:a"),
        *("a\\b", "a\0b", "a\n", "%2e%2e/a", "%252e%252e/a", "\uff0e\uff0e/a", "\u2024\u2024/a"),
        *("x" * 256, "ä" * 200, "a/" * 600 + "a"),
    ],
)
def test_inside_refuses_what_could_leave_the_root(tmp_path: Path, relative: str) -> None:
    with pytest.raises(IntegrityError, match="is not a path inside"):
        inside(tmp_path, relative)


def test_inside_follows_links(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
    (root / "out").symlink_to(outside)
    (root / "up").symlink_to("..")
    (root / "round").symlink_to("round")
    (root / "in").symlink_to("folder")
    assert inside(root, "in/file") == (root / "folder" / "file").resolve()
    for name in ("out", "out/file", "up/outside", "round/file"):
        with pytest.raises(IntegrityError, match="is not a path inside"):
            inside(root, name)


class OtherError(Exception):
    """As the writers of safetensors and of tokenisers raise."""


def chained(error: Exception) -> Exception:
    """What a writer raises when it cannot finish a file after `error`."""
    try:
        try:
            raise error
        except Exception:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904 - the context is the point
    except RuntimeError as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (chained(OSError(errno.ENOSPC, "x")), True),
        (OtherError("Io(Os { code: 28, message: No space left on device })"), True),
        (OSError(errno.EACCES, "x"), False),
        (chained(ValueError("x")), False),
        (None, False),
    ],
)
def test_a_full_disk_is_known_whoever_writes(error: Exception | None, expected: bool) -> None:
    assert is_full(error) is expected


def test_what_must_be_written_and_cannot_is_the_users_to_mend(tmp_path: Path) -> None:
    message = r"cannot be written: No space"
    with pytest.raises(ConfigError, match=message) as caught, must_write(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(tmp_path / "file") in caught.value.problem
    assert "make room" in str(caught.value)


def test_bytes_of_a_file_and_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "one").write_bytes(b"12345")
    (tmp_path / "two").write_bytes(b"123")
    assert num_bytes(tmp_path / "two") == 3
    assert num_bytes(tmp_path) == 8
    assert num_bytes(tmp_path / "absent") == 0
