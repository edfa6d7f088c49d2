"""Files that are whole or not there, and names that cannot leave their folder."""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from mlflow_setup.errors import ConfigError, IntegrityError

TEMPORARY = ".tmp-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_PATH = 1024


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file that readers see whole or not at all, on disk when the call returns."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
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
    path.parent.mkdir(parents=True, exist_ok=True)
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
        and all(part not in ("", ".", "..") and len(part) <= 255 for part in parts)
        and all(ord(character) < 0x2000 for character in decoded)
    )
    if is_plain:
        path = (root / relative).resolve()
        if path.is_relative_to(root.resolve()) and path != root.resolve():
            return path
    raise IntegrityError(f"{relative[:120]!r} is not a path inside {root}")
