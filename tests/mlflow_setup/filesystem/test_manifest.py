import json
import re
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.filesystem.manifest import MANIFEST, find_damage, sha256_file, write_manifest


def test_sha256_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_a_manifest_matches_the_folder_it_was_written_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"")
    write_manifest(tmp_path, {"epoch": 3})
    assert find_damage(tmp_path, {"epoch": 3}) is None
    listed = json.loads((tmp_path / MANIFEST).read_text())
    assert set(listed["files"]) == {"a", "b"}
    assert listed["files"]["a"] == {"size": 1, "sha256": sha256_file(tmp_path / "a")}


@pytest.mark.parametrize(
    ("damage", "message"),
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
def test_damage_is_reported(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "x").write_bytes(b"1")  # the content of `a`
    (folder / "a").write_bytes(b"1")
    (folder / "b").write_bytes(b"3")
    write_manifest(folder, {"epoch": 3})
    damage(folder)
    found = find_damage(folder, {"epoch": 3})
    assert found is not None
    assert re.search(message, found)


def test_a_file_that_cannot_be_read_now_is_not_reported_as_damaged(tmp_path: Path) -> None:
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
