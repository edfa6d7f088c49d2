"""Downloaded folders: files that a download added, links of a cache, and git-lfs pointers."""

import os
from pathlib import Path

import pytest

from mlflow_setup.filesystem.manifest import (
    MANIFEST,
    find_damage,
    is_ignored_file,
    is_lfs_pointer,
    sha256_file,
    write_manifest,
)

FACTS = {"format": "of a test"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (".gitattributes", True),
        (".git/HEAD", True),
        (".cache/huggingface/download/model.safetensors.lock", True),
        (".DS_Store", True),
        ("members/.DS_Store", True),
        (".cache/other", False),
        ("members/.gitattributes", False),
        (".gitmodules", False),
        ("a.DS_Store", False),
        ("model.safetensors", False),
    ],
)
def test_files_that_a_download_added_are_ignored(name: str, expected: bool) -> None:
    assert is_ignored_file(name) is expected


def snapshot(root: Path, blobs: Path) -> Path:
    """A folder in the layout of the hub's cache: names are links to files named by their hash."""
    folder = root / "models--me--x" / "snapshots" / "c0ffee"
    (folder / "members").mkdir(parents=True)
    blobs.mkdir(parents=True)
    for name in ("a.json", "members/b.json"):
        (folder / name).write_text(name)
    write_manifest(folder, FACTS)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        blob = blobs / sha256_file(path)
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    return folder


def test_a_snapshot_in_the_hubs_cache_is_undamaged(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, tmp_path / "models--me--x" / "blobs")
    assert find_damage(folder, FACTS) is None
    (folder / "members" / "b.json").resolve().write_text("other")
    assert find_damage(folder, FACTS) == "changed since it was written: members/b.json"


def test_links_out_of_the_cache_are_damage(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, tmp_path / "elsewhere")
    assert "changed since it was written: a.json" in str(find_damage(folder, FACTS))


def test_a_git_lfs_pointer_is_reported(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(5000))
    (tmp_path / "a.json").write_text("{}")
    write_manifest(tmp_path, FACTS)
    (tmp_path / "model.safetensors").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 5000\n"
    )
    expected = "git-lfs pointers in place of the files (git lfs pull): model.safetensors"
    assert find_damage(tmp_path, FACTS) == expected
    assert not is_lfs_pointer(tmp_path / MANIFEST)
