"""Access to object stores: list, download, write, copy and delete objects at storage URIs.

The only module that imports obstore. Credentials, region and endpoint come from the machine's role
or environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`), never from the URI.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow_setup.errors import ConfigError, PartialError, StorageError
from mlflow_setup.text import first_line
from mlflow_setup.uris import redact

SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "file")
_RETRIES = {"max_retries": 8, "retry_timeout": timedelta(seconds=60)}
_LONG_RETRIES = {"max_retries": 40, "retry_timeout": timedelta(minutes=5)}
_CONSISTENCY_WAITS = (0.1, 0.3, 1.0, 3.0, 10.0)  # seconds before each retry of `_get_listed`
_LOGIN = (
    "give this machine a role that may read there, or set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_NAME and "
    "AZURE_STORAGE_ACCOUNT_KEY"
)
_STATUS = re.compile(r"status code: (\d+ [A-Z][A-Za-z ]+)")
_XML_ERROR = re.compile(r"<Code>(\w+)</Code>\s*<Message>(.*?)</Message>", re.DOTALL)
_DENIED = re.compile(r"^(Permission|Unauthenticated)|\b(401 Unauth|403 Forb|AccessDenied)")
_CORRECT_URI = (
    "correct the URI; AWS_REGION is the bucket's region, AWS_ENDPOINT_URL the address of a store "
    "that is not Amazon's"
)


@dataclass(frozen=True)
class Version:
    """Identifies one version of a file at a URI."""

    num_bytes: int
    mark: str  # the store's entity tag; without one, the time of the last change


class RemoteFolder:
    """Read-only access to the folder at `uri`.

    Raises:
        ConfigError: not a storage URI, or one with a query or fragment.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._store = _open(uri)

    def list(self) -> dict[str, Version]:
        """The version of every file below the folder, by its path in it.

        Raises:
            PartialError: the folder is empty or missing, or cannot be read now.
        """
        with _errors_at(self.uri):
            versions = {meta["path"]: _version(meta) for meta in _listing(self._store)}
        if not versions:
            raise PartialError(
                f"{redact(self.uri)}: no folder with files",
                fix=f"name the folder, not a file in it; else {_CORRECT_URI}",
            )
        return versions

    def version(self, name: str) -> Version:
        """The version of one file. Raises PartialError if it is missing or cannot be read now."""
        with _errors_at(f"{self.uri}/{name}"):
            return _version(self._store.head(name))

    def download(self, name: str, target: Path) -> Version:
        """Download the file `name` to `target`, and return the version that was downloaded.

        Raises:
            PartialError: the file is missing, or cannot be read now.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with _errors_at(f"{self.uri}/{name}"):
            answer = _get_listed(self._store, name)
            with target.open("wb") as local:
                num_bytes = sum(local.write(chunk) for chunk in answer.stream())
        return Version(num_bytes, _version(answer.meta).mark)


@dataclass(frozen=True)
class Entry:
    """An object in a listing."""

    num_bytes: int
    mark: str  # as in `Version`
    modified: datetime


class ObjectStore:
    """The objects below the storage URI `uri`, by their names relative to it.

    Failed requests are retried with exponential backoff. Every method raises StorageError if the
    store cannot be reached, or denies the request.

    Raises:
        ConfigError: as `RemoteFolder`.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._store = _open(uri)

    def retry_longer(self) -> None:
        """Retry failed requests for up to five minutes, so as not to lose work that has begun."""
        self._store = _open(self.uri, _LONG_RETRIES)

    def entries(self, folder: str) -> dict[str, Entry]:
        """Every object below `folder` ("": all) by its name relative to the store's URI."""
        with _errors_at(f"{self.uri}/{folder}"):
            return {meta["path"]: _entry(meta) for meta in _listing(self._store, folder)}

    def folders(self, folder: str) -> list[str]:
        """The names of the folders directly in `folder`."""
        with _errors_at(f"{self.uri}/{folder}"):
            prefixes = self._store.list_with_delimiter(folder or None)["common_prefixes"]
        return [name.rstrip("/").rpartition("/")[2] for name in prefixes]

    def entry(self, name: str) -> Entry | None:
        """One object's entry; None if there is no such object."""
        with suppress(FileNotFoundError), _errors_at(f"{self.uri}/{name}", may_be_missing=True):
            return _entry(self._store.head(name))
        return None

    def get(self, name: str) -> tuple[bytes, str | None]:
        """An object's content and its version mark for `swap`; `b""` and None if there is none."""
        with suppress(FileNotFoundError), _errors_at(f"{self.uri}/{name}", may_be_missing=True):
            answer = self._store.get(name)
            return bytes(answer.bytes()), _condition(answer.meta)
        return b"", None

    def download(self, name: str, target: Path) -> str | None:
        """Download an object from a listing to `target`, in chunks. Return its version mark; None
        if it has been deleted since."""
        with suppress(FileNotFoundError), _errors_at(f"{self.uri}/{name}", may_be_missing=True):
            answer = _get_listed(self._store, name)
            with target.open("wb") as local:
                local.writelines(answer.stream())
            return _version(answer.meta).mark
        return None

    def put(self, name: str, content: bytes | Path) -> str:
        """Write an object atomically, and return its version mark."""
        with _errors_at(f"{self.uri}/{name}", "written"):
            return str(self._store.put(name, content)["e_tag"] or "").strip('"')

    def copy(self, source: str, name: str, mark: str) -> str | None:
        """Copy version `mark` of the object `source` within the store. Return the copy's mark; None
        if there is no such version, or in Azure, which may answer before the copy is complete."""
        entry = None if urlsplit(self.uri).scheme.startswith("a") else self.entry(source)
        if entry is None or entry.mark != mark:
            return None
        with _errors_at(f"{self.uri}/{name}", "written"):
            self._store.copy(source, name)
            return _version(self._store.head(name)).mark

    def swap(self, name: str, content: bytes, mark: str | None) -> str | None:
        """Write an object if its version mark is `mark`, or if it does not exist and `mark` is
        None. Return its new mark; None if it was not written."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode = "create" if mark is None else json.loads(mark)
        try:
            with _errors_at(f"{self.uri}/{name}", "written"):
                return _condition(self._store.put(name, content, mode=mode, use_multipart=False))
        except (AlreadyExistsError, PreconditionError):
            return None

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; missing ones are ignored."""
        if not names:
            return
        try:
            with _errors_at(f"{self.uri}/{names[0]}", "deleted", may_be_missing=True):
                self._store.delete(list(names))
        except FileNotFoundError:  # Azure, unlike S3, stops at the first that is missing
            for name in names:
                at = f"{self.uri}/{name}"
                with suppress(FileNotFoundError), _errors_at(at, "deleted", may_be_missing=True):
                    self._store.delete(name)


def _listing(store: Any, folder: str = "") -> Iterator[Any]:
    for batch in store.list(folder or None):
        yield from batch


def _get_listed(store: Any, name: str) -> Any:
    """`get` an object from a listing, and retry while it is listed but not found: some stores are
    only eventually consistent."""
    from obstore.exceptions import GenericError, NotFoundError

    for seconds in _CONSISTENCY_WAITS:
        with suppress(NotFoundError, FileNotFoundError):
            return store.get(name)
        if all(meta["path"] != name for meta in _listing(store, name.rpartition("/")[0])):
            return store.get(name)
        time.sleep(seconds)
    raise GenericError("the object is listed but cannot be found")


def _open(uri: str, retries: Any = _RETRIES) -> Any:
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    scheme = urlsplit(uri).scheme
    if scheme not in SCHEMES:
        raise ConfigError(
            f"{redact(uri)}: no storage URI that can be read",
            fix=f"use one of {', '.join(f'{each}://' for each in SCHEMES)}",
        )
    if urlsplit(uri).query or "#" in uri:
        raise ConfigError(
            f"{redact(uri)}: a storage URI is only a bucket and a folder",
            fix="set region and endpoint in the environment: AWS_REGION, AWS_ENDPOINT_URL",
        )
    try:
        if scheme == "file":
            return from_url(uri)
        endpoints = (value for name, value in os.environ.items() if "ENDPOINT" in name)
        options: Any = {"allow_http": any(value.startswith("http://") for value in endpoints)}
        return from_url(uri, client_options=options, retry_config=retries)
    except (BaseError, ValueError) as error:
        reason = first_line(error)
        if scheme == "file" and "canonicalize" in reason:
            raise PartialError(
                f"{uri}: there is no such folder", fix="correct the URI: file:///PATH"
            ) from None
        fix = "set AZURE_STORAGE_ACCOUNT_NAME to the account" if "Account" in reason else None
        raise ConfigError(f"{redact(uri)}: no storage URI: {redact(reason)}", fix=fix) from None


def _entry(meta: Any) -> Entry:
    return Entry(meta["size"], _version(meta).mark, meta["last_modified"])


def _version(meta: Any) -> Version:
    mark = (meta["e_tag"] or "").strip('"') or meta["last_modified"].isoformat()
    return Version(meta["size"], mark)


def _condition(meta: Any) -> str:
    """The version that a conditional write replaces: entity tag, and version id if there is one."""
    return json.dumps({key: meta[key] for key in ("e_tag", "version") if meta.get(key)})


@contextmanager
def _errors_at(place: str, what: str = "read", *, may_be_missing: bool = False) -> Iterator[None]:
    """Turn errors of the store into StorageError, with what to do about them.

    Args:

        what: what was attempted: `read`, `written` or `deleted`.
        may_be_missing: raise FileNotFoundError for an object that does not exist.
    """
    from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError

    shown = redact(place)
    missing = f"{shown}: there is no such bucket"
    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise
    except (NotFoundError, FileNotFoundError):
        if may_be_missing:
            raise FileNotFoundError(shown) from None
        raise StorageError(f"{missing}, folder or file", fix=_CORRECT_URI) from None
    except (BaseError, PermissionError) as error:
        reason = _reason(error)
        if "404 Not Found" in reason:  # how a listing reports a missing bucket
            raise StorageError(missing, fix=_CORRECT_URI) from None
        is_denied = _DENIED.search(f"{type(error).__name__}: {error}") is not None
        fix = f"try again once the store answers; else {_CORRECT_URI}"
        if is_denied or "169.254" in reason or "credential" in reason.lower():
            fix = _LOGIN.replace("read", "read" if what == "read" else "read, write and delete", 1)
        how = f"may not be {what}" if is_denied else f"cannot be {what} now"
        raise StorageError(f"{shown}: {how}: {reason}", fix=fix) from None


def _reason(error: BaseException) -> str:
    """The status and message in the store's response; else the first line of the error."""
    text = str(error)
    matches = (_STATUS.search(text), _XML_ERROR.search(text))
    parts = [group for match in matches if match for group in match.groups()]
    return redact(": ".join(map(first_line, parts)) or first_line(error))[:300]
