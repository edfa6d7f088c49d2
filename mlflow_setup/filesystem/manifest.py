"""Folders with a `manifest.json`: the size and SHA-256 of every file, to detect damage.

Files that the hub's client, git and file managers add to a folder are ignored.
"""

import errno
import hashlib
import json
from pathlib import Path
from typing import Any

from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.filesystem.modes import OWNERS

MANIFEST = "manifest.json"
_POINTER = b"version https://git-lfs.github.com/spec/"
_IGNORED_FOLDERS = (".git/", ".cache/huggingface/")
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}


def sha256_file(path: Path) -> str:
    """The file's SHA-256, as 64 hex characters."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, facts: dict[str, Any], mask: int = OWNERS) -> None:
    """Write `manifest.json`: size and SHA-256 of each file below `folder`, and `facts`.

    Call this last: a folder without a manifest is incomplete.
    """
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in sorted(_files_below(folder))
    }
    write_atomic(folder / MANIFEST, json.dumps({**facts, "files": files}, indent=1), mask)


def find_damage(folder: Path, facts: dict[str, Any]) -> str | None:
    """The first difference of `folder` from its manifest or from `facts`; None if undamaged.

    Raises:
        IntegrityError: a file exists but cannot be read now, and may be damaged or not.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest.pop("files")
        if manifest != facts:
            return f"{MANIFEST} is of {manifest}, not of {facts}"[:300]
        differing = _files_below(folder) ^ {MANIFEST, *files}
        if differing:
            return f"missing or not in {MANIFEST}: {', '.join(sorted(differing))}"[:300]
        changed = [name for name, listed in files.items() if not _matches(folder, name, listed)]
        pointers = [name for name in changed if is_lfs_pointer(folder / name)]
        if pointers:
            return f"git-lfs pointers in place of the files (git lfs pull): {', '.join(pointers)}"
        return f"changed since it was written: {', '.join(changed)}" if changed else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} is missing or not a manifest: {error}"[:300]
    except OSError as error:
        if error.errno in _MISSING:
            return f"{MANIFEST} is missing or not a manifest: {error}"[:300]
        raise IntegrityError(
            f"{folder}: cannot be read now: {error}", fix="try again once the cause is fixed"
        ) from None


def _files_below(folder: Path) -> set[str]:
    """Paths in `folder` of all files and symbolic links, without those that a download added."""
    names = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    return {name for name in names if not is_ignored_file(name)}


def _matches(folder: Path, name: str, listed: dict[str, Any]) -> bool:
    path = folder / name
    return (
        is_own_file(folder, path)
        and path.stat().st_size == listed["size"]
        and sha256_file(path) == listed["sha256"]
    )


def is_ignored_file(name: str) -> bool:
    """Whether a path in a folder belongs to a file that a download added and nothing reads."""
    is_git = name == ".gitattributes" or name.startswith(_IGNORED_FOLDERS)
    return is_git or name.rpartition("/")[2] == ".DS_Store"


def is_own_file(folder: Path, path: Path) -> bool:
    """Whether `path` is a regular file, or a link of the hub's cache to one:
    `models--x--y/snapshots/<commit>/<name>` -> `models--x--y/blobs/<hash>`."""
    if not path.is_symlink():
        return path.is_file()
    root = folder.resolve()
    is_snapshot = root.parent.name == "snapshots"
    return is_snapshot and path.is_file() and path.resolve().parent == root.parents[1] / "blobs"


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file is a git-lfs pointer: its content was not fetched."""
    if not path.is_file() or path.stat().st_size > 1024:
        return False
    return path.read_bytes().startswith(_POINTER)
