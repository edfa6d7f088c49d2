"""Names and relative paths: those from outside cannot leave their folder."""

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
"""A URI that was taken for a path, which has one slash where the URI had two."""


def cache_folder() -> Path:
    """`ENSWEEP_CACHE`, or `ensweep` in the user's cache folder. Safe to delete at any time."""
    given = os.environ.get("ENSWEEP_CACHE")
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ensweep"
    except RuntimeError:  # a user without a home
        return Path(os.devnull, "ensweep")


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


def near_file(path: Path) -> str:
    """` (did you mean reviews.csv?)` for a path that is not there, by the names beside it."""
    try:
        return did_you_mean(path.name, [each.name for each in path.parent.iterdir()])
    except OSError:
        return ""


def as_given(path: str | Path) -> str:
    """A path as text; one that was given as a URI, as that."""
    spelled = _COLLAPSED.fullmatch(str(path))
    if spelled is None or is_uri(str(path)):
        return str(path)
    return f"{spelled[1]}://{'/' if spelled[1] == 'file' else ''}{spelled[2]}"


def refuse_uri(path: Path, option: str) -> None:
    """A path that was given as a URI would become the local folder `./s3:`.

    Raises:
        ConfigError: naming the option.
    """
    uri = as_given(path)
    if is_uri(uri):
        raise ConfigError(
            f"{option} {redact(uri)}: is a storage URI, and a path is needed",
            fix="name a place on this machine, or on a file system that every node mounts (NFS, "
            "EFS, a volume); data, encoders and sweeps may be at URIs, other files may not",
        )


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
            path, top = (root / relative).resolve(), root.resolve()
            if path.is_relative_to(top) and path != top:
                return path
    raise IntegrityError(f"{relative[:120]!r} is not a path inside {root}")


def files_inside(root: Path, pattern: str) -> list[Path]:
    """What fits the pattern below the folder, by name; what a link leads out to is not its own, to
    be sent or deleted."""
    top = root.resolve()
    paths = root.glob(pattern)
    return sorted(path for path in paths if Path(os.path.realpath(path)).is_relative_to(top))


def is_below(folder: str, name: str) -> bool:
    """Whether a name with slashes is of something in the folder; "": all are."""
    return not folder or name.startswith(f"{folder}/")


def matches(folder: str, name: str, patterns: Sequence[str]) -> bool:
    """Whether each part of a name below the folder fits that part of one of the patterns; locks and
    marks, whose names begin with a point, fit none."""
    parts = name.removeprefix(f"{folder}/" if folder else "").split("/")
    return not any(part.startswith(".") for part in parts) and any(
        len(wanted) == len(parts) and all(map(fnmatchcase, parts, wanted))
        for wanted in (pattern.split("/") for pattern in patterns)
    )
