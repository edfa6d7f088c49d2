"""Open a storage that the user named by a path or a URI, as a local folder."""

from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.paths import cache_folder, safe_name, uri_or_path
from mlflow_setup.filesystem.storage import Storage, register_working_copy
from mlflow_setup.text import short_hash
from mlflow_setup.uris import has_credentials, is_uri, redact


def storage_folder(place: str | Path, copies: str = "copies") -> Path:
    """The local folder of a storage: the path itself, or the working copy of a URI.

    Does not connect to the store.

    Args:
        place: `s3://bucket/prefix`, `gs://`, `az://`, `file:///...`, or a path.
        copies: the cache folder of working copies. Processes with different ones share none.

    Raises:
        ConfigError: not a storage URI, or one with credentials, a query or a fragment.
    """
    given = uri_or_path(place)
    if not is_uri(given):
        return Path(place)
    if given.startswith("file://"):
        return _path_of(given)
    if has_credentials(given):
        raise ConfigError(
            f"--storage {redact(given)}: the URI holds credentials",
            fix="give them by the role or the environment of this machine",
        )
    uri = given.rstrip("/")
    root = (cache_folder() / copies / short_hash(uri)).resolve()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--storage {uri}: cannot make the folder of its working copy: {root}: "
            f"{error.strerror}",
            fix="set ENSWEEP_CACHE to a folder that can be written to",
        ) from None
    register_working_copy(root, _working_copy(uri, root))
    return root


def folder_to_make(place: str | Path) -> Path:
    """The local path for a new folder; for `s3://bucket/prefix/NAME`, `NAME` in the working copy of
    `s3://bucket/prefix`. Raises ConfigError as `storage_folder`, or if the URI has no name."""
    given = uri_or_path(place)
    if not is_uri(given):
        return Path(place)
    storage, name = split_file(given.rstrip("/"))
    return storage_folder(storage) / safe_name(name, f"{redact(storage)}:")


def split_file(uri: str) -> tuple[str, str]:
    """Split the URI of a file into the URI of its folder and its name."""
    folder, _, name = uri.rpartition("/")
    if not name or folder.endswith("/"):
        raise ConfigError(f"{redact(uri)}: not the URI of a file", fix="name a file in a bucket")
    return folder, name


@cache
def _working_copy(uri: str, root: Path) -> Storage:
    from mlflow_setup.filesystem.object_store import ObjectStore
    from mlflow_setup.filesystem.working_copy import WorkingCopy

    return WorkingCopy(uri, root, ObjectStore(uri))


def _path_of(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ConfigError(
            f"{redact(uri)}: not the URI of a local folder", fix="use file:///absolute/path"
        )
    return Path(unquote(parts.path))
