"""Files that are whole or not there, and names that cannot leave their folder."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from mlflow_setup.errors import ConfigError, IntegrityError

TEMPORARY = ".tmp-"
MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_PATH = 1024
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file that readers see whole or not at all, on disk when the call returns."""
    with atomic_file(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content is `path`, on disk, once the block ends well; else nothing is."""
    _make_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well, replacing nothing.

    Raises:
        FileExistsError: `path` is there already.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists")
    _make_folder(path.parent)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            sync_folder(file) if file.is_dir() else sync_file(file)
        sync_folder(temporary)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def must_write(place: Path) -> Iterator[None]:
    """Around what has to be written before any work begins.

    Raises:
        ConfigError: the disk is full, read-only or away; in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{place}: cannot be written: {error.strerror or error}",
            fix="make room, or name a storage folder that can be written to",
        ) from None


def is_full(error: BaseException | None) -> bool:
    """Whether an error comes of a disk, or a quota, without room.

    Writers that are not Python's have error classes of their own, and only words for it.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        if any(os.strerror(number) in str(error) for number in _NO_ROOM):
            return True
        error = error.__cause__ or error.__context__
    return False


def num_bytes(path: Path) -> int:
    """The size of a file, or of all files below a folder; what goes meanwhile counts nothing."""
    total = 0
    for file in (path, *path.rglob("*")):
        with contextlib.suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def remove_folder(folder: Path) -> None:
    """Delete a folder that readers see whole or not at all; none there is as good.

    It is gone at once; what of it cannot be deleted now is a leftover.
    """
    if folder.exists():
        doomed = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder.parent))
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what a crash in the middle of a write left in `folder`."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Have the system put a file's content on disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Have the system put a folder's entries on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """The file's SHA-256, as 64 hex characters."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """`manifest.json`: size and SHA-256 of each file below `folder`, and `facts`.

    Written after everything else: a folder without one is not whole.
    """
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in sorted(_files_below(folder))
    }
    write_atomic(folder / MANIFEST, json.dumps({**facts, "files": files}, indent=1))


def find_damage(folder: Path, facts: dict[str, Any]) -> str | None:
    """What of `folder` is not as its manifest says, or is not of `facts`; None when it is whole.

    Raises:
        IntegrityError: a file is there and cannot be read now: nobody knows whether it is damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest.pop("files")
        if manifest != facts:
            return f"{MANIFEST} is of {manifest}, not of {facts}"[:300]
        differing = _files_below(folder) ^ {MANIFEST, *files}
        if differing:
            return f"missing or not in {MANIFEST}: {', '.join(sorted(differing))}"[:300]
        changed = [name for name, listed in files.items() if not _is_as(folder / name, listed)]
        return f"changed since it was written: {', '.join(changed)}" if changed else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} is missing or not a manifest: {error}"[:300]
    except OSError as error:
        if error.errno in _NOT_THERE:
            return f"{MANIFEST} is missing or not a manifest: {error}"[:300]
        raise IntegrityError(
            f"{folder}: cannot be read now: {error}", fix="try again once the cause is gone"
        ) from None


def _files_below(folder: Path) -> set[str]:
    """Names below `folder` of all that is not a plain folder: files, and links of any kind."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def _is_as(path: Path, listed: dict[str, Any]) -> bool:
    is_plain = path.is_file() and not path.is_symlink()
    return (
        is_plain and path.stat().st_size == listed["size"] and sha256_file(path) == listed["sha256"]
    )


def safe_name(name: str, what: str) -> str:
    """`name` itself if it can name a file or folder of ours.

    Raises:
        ConfigError: it is not letters, digits, `.`, `_` and `-`, or could leave its folder.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(
            f"{what} {name[:120]!r} is not a name",
            fix="use 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit",
        )
    return name


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, proved to stay below `root` after links are followed.

    Raises:
        IntegrityError: absolute, `..`, encoded, with a backslash, NUL or a link that leads out.
    """
    decoded = unquote(unquote(relative))
    parts = decoded.split("/")
    is_plain = (
        relative
        and decoded == relative
        and decoded.isprintable()
        and len(decoded) <= _MAX_PATH
        and not set(decoded) & set("\\\0:~")
        and all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
        and all(ord(character) < 0x2000 for character in decoded)
    )
    if is_plain:
        with contextlib.suppress(OSError, RuntimeError):  # links that lead in a circle
            path = (root / relative).resolve()
            if path.is_relative_to(root.resolve()) and path != root.resolve():
                return path
    raise IntegrityError(f"{relative[:120]!r} is not a path inside {root}")


def _make_folder(folder: Path) -> None:
    """Make the folder and its parents, their entries on disk too."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)
