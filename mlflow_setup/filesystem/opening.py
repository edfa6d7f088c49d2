"""From what users name a storage by to the folder by which it is used here."""

from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.paths import as_given, cache_folder, safe_name
from mlflow_setup.filesystem.storage import Storage, know
from mlflow_setup.text import short_hash
from mlflow_setup.uris import has_credentials, is_uri, redact


def storage_folder(place: str | Path, copies: str = "copies") -> Path:
    """The folder by which a storage is used here: of a path the path, of a URI its working copy.

    Nothing is connected to yet.

    Args:
        place: `s3://bucket/prefix`, `gs://`, `az://`, `file:///...`, or a path.
        copies: processes that do not name the same share no working copy.

    Raises:
        ConfigError: no storage URI, or one that holds credentials or settings.
    """
    given = as_given(place)
    if not is_uri(given):
        return Path(place)
    if given.startswith("file://"):
        return _path_of(given)
    if has_credentials(given):
        raise ConfigError(
            f"--storage {redact(given)}: the URI holds credentials",
            fix="leave them to the role or the environment of this machine",
        )
    uri = given.rstrip("/")
    root = (cache_folder() / copies / short_hash(uri)).resolve()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--storage {uri}: there is no place for a working copy: {root}: {error.strerror}",
            fix="ENSWEEP_CACHE names a folder that can be written to",
        ) from None
    know(root, _working_copy(uri, root))
    return root


def folder_to_make(place: str | Path) -> Path:
    """The path of a new folder; of `s3://bucket/prefix/NAME` that in the working copy of
    `s3://bucket/prefix`. Raises ConfigError as `storage_folder`, or where there is no name."""
    given = as_given(place)
    if not is_uri(given):
        return Path(place)
    storage, name = split_file(given.rstrip("/"))
    return storage_folder(storage) / safe_name(name, f"{redact(storage)}:")


def split_file(uri: str) -> tuple[str, str]:
    """The URI of the folder that a file lies in, and the file's name."""
    folder, _, name = uri.rpartition("/")
    if not name or folder.endswith("/"):
        raise ConfigError(f"{redact(uri)}: no URI of a file", fix="name a file in a bucket")
    return folder, name


@cache
def _working_copy(uri: str, root: Path) -> Storage:
    from mlflow_setup.filesystem.object_store import ObjectStore
    from mlflow_setup.filesystem.working_copy import WorkingCopy

    return WorkingCopy(uri, root, ObjectStore(uri))


def _path_of(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ConfigError(f"{redact(uri)}: no URI of a folder here", fix="file:///absolute/path")
    return Path(unquote(parts.path))
