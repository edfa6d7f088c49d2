"""Safe names and paths: names from outside cannot lead out of their folder."""

import contextlib
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.text import did_you_mean
from mlflow_setup.uris import is_uri, redact

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_PATH = 1024
_COLLAPSED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(.*)")
"""A URI that became a pathlib.Path, which turns its `//` into `/`."""


def cache_folder() -> Path:
    """The cache: `ENSWEEP_CACHE`, or `ensweep` in the user's cache folder. Safe to delete."""
    given = os.environ.get("ENSWEEP_CACHE")
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ensweep"
    except RuntimeError:  # a user without a home
        return Path(os.devnull, "ensweep")


def safe_name(name: str, what: str) -> str:
    """`name`, checked to be safe as the name of a file or folder.

    Raises:
        ConfigError: not 1 to 100 letters, digits, `.`, `_` and `-`, or `..` in it.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(
            f"{what} {name[:120]!r} is not a name",
            fix="use 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit",
        )
    return name


def near_file(path: Path) -> str:
    """` (did you mean reviews.csv?)` for a missing path, by the names in its folder; or ""."""
    try:
        return did_you_mean(path.name, [each.name for each in path.parent.iterdir()])
    except OSError:
        return ""


def uri_or_path(path: str | Path) -> str:
    """The text of a path; the original URI if `path` was made from one."""
    spelled = _COLLAPSED.fullmatch(str(path))
    if spelled is None or is_uri(str(path)):
        return str(path)
    return f"{spelled[1]}://{'/' if spelled[1] == 'file' else ''}{spelled[2]}"


def refuse_uri(path: Path, option: str) -> None:
    """Raise ConfigError, naming the option, if a URI was given where a path is needed.

    Otherwise it would become the local folder `./s3:`.
    """
    uri = uri_or_path(path)
    if is_uri(uri):
        raise ConfigError(
            f"{option} {redact(uri)}: is a storage URI, but a path is needed",
            fix="name a place on this machine, or on a file system that every node mounts (NFS, "
            "EFS, a volume); data, encoders and sweeps may be at URIs, other files may not",
        )


def inside(root: Path, relative: str) -> Path:
    """`root / relative` with links resolved, checked to be below `root`.

    Raises:
        IntegrityError: `relative` is absolute, contains `..`, URL encoding, a backslash, NUL or
            another unsafe character, or a link in it leads out of `root`.
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
        with contextlib.suppress(OSError, RuntimeError):  # a cycle of links
            path, top = (root / relative).resolve(), root.resolve()
            if path.is_relative_to(top) and path != top:
                return path
    raise IntegrityError(f"{relative[:120]!r} is not a path inside {root}")


def files_inside(root: Path, pattern: str) -> list[Path]:
    """The paths in `root` that match the glob pattern, sorted, without those that a link leads out
    of `root`: these must be neither uploaded nor deleted."""
    top = root.resolve()
    paths = root.glob(pattern)
    return sorted(path for path in paths if Path(os.path.realpath(path)).is_relative_to(top))


def is_below(folder: str, name: str) -> bool:
    """Whether the path `name` is below the folder; "" is the root, which contains all."""
    return not folder or name.startswith(f"{folder}/")


def matches(folder: str, name: str, patterns: Sequence[str]) -> bool:
    """Whether the path `name`, relative to `folder`, matches one of the glob patterns, part by
    part. Names that begin with a dot (locks, marker files) match none."""
    parts = name.removeprefix(f"{folder}/" if folder else "").split("/")
    return not any(part.startswith(".") for part in parts) and any(
        len(wanted) == len(parts) and all(map(fnmatchcase, parts, wanted))
        for wanted in (pattern.split("/") for pattern in patterns)
    )
