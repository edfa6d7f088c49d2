"""What the hub's client, git and file managers leave beside a folder's files, or in their place."""

from pathlib import Path

_POINTER = b"version https://git-lfs.github.com/spec/"
_BESIDE = (".git/", ".cache/huggingface/")
_NAMED = (".gitattributes", ".DS_Store")


def is_beside(name: str) -> bool:
    """Whether a file's path in a folder is one that a download has added: it is never read."""
    return name.startswith(_BESIDE) or name == _NAMED[0] or name.rpartition("/")[2] == _NAMED[1]


def is_own_file(folder: Path, path: Path) -> bool:
    """Whether `path` is a plain file, or the link to one by which the hub's cache keeps it:
    `models--x--y/snapshots/<commit>/<name>` -> `models--x--y/blobs/<hash>`."""
    if not path.is_symlink():
        return path.is_file()
    root = folder.resolve()
    is_snapshot = root.parent.name == "snapshots"
    return is_snapshot and path.is_file() and path.resolve().parent == root.parents[1] / "blobs"


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file is what git leaves in a file's place where git-lfs has not fetched it."""
    if not path.is_file() or path.stat().st_size > 1024:
        return False
    return path.read_bytes().startswith(_POINTER)
