"""Folders and files at storage URIs: listed by version, brought here whole, written whole.

Alone imports obstore. Credentials, region and endpoint are the machine's own, from its role or its
environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`); a URI holds none.
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
_BEHIND_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0)
_PATIENT = {"max_retries": 40, "retry_timeout": timedelta(minutes=5)}
_LOGIN = (
    "give this machine a role that may read there, or set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_NAME and "
    "AZURE_STORAGE_ACCOUNT_KEY"
)
_STATUS = re.compile(r"status code: (\d+ [A-Z][A-Za-z ]+)")
_SAID = re.compile(r"<Code>(\w+)</Code>\s*<Message>(.*?)</Message>", re.DOTALL)
_DENIED = re.compile(r"^(Permission|Unauthenticated)|\b(401 Unauth|403 Forb|AccessDenied)")
_PLACE = (
    "correct the URI; AWS_REGION is the bucket's region, AWS_ENDPOINT_URL the address of a store "
    "that is not Amazon's"
)


@dataclass(frozen=True)
class Version:
    """Identifies one version of a file at a URI."""

    num_bytes: int
    mark: str  # the store's entity tag, or else the time of the last change


class RemoteFolder:
    """The folder at `uri`. Reads only.

    Raises:
        ConfigError: no storage URI, or one with settings in it.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._store = _open(uri)

    def list(self) -> dict[str, Version]:
        """Every file below the folder by its name in it.

        Raises:
            PartialError: there is nothing there, or it cannot be reached now.
        """
        with _told(self.uri):
            versions = {
                entry["path"]: _version(entry) for batch in self._store.list() for entry in batch
            }
        if not versions:
            raise PartialError(
                f"{redact(self.uri)}: no folder with files",
                fix=f"name the folder, not a file in it; else {_PLACE}",
            )
        return versions

    def version(self, name: str) -> Version:
        """The version of one file; raises PartialError as `list`."""
        with _told(f"{self.uri}/{name}"):
            return _version(self._store.head(name))

    def download(self, name: str, target: Path) -> Version:
        """Write the file `name` to `target`; the version that was written.

        Raises:
            PartialError: it is not there, or cannot be read now.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with _told(f"{self.uri}/{name}"):
            answer = _get_listed(self._store, name)
            with target.open("wb") as local:
                num_bytes = sum(local.write(chunk) for chunk in answer.stream())
        return Version(num_bytes, _version(answer.meta).mark)


@dataclass(frozen=True)
class Entry:
    """An object as a listing has it."""

    num_bytes: int
    mark: str  # as of `Version`
    modified: datetime


class ObjectStore:
    """The objects below the storage URI `uri`, by their names there. A request that fails is made
    again for a while, after random waits that grow. Every method raises StorageError where the
    store cannot be reached, or refuses.

    Raises:
        ConfigError: as `RemoteFolder`.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._store = _open(uri)

    def be_patient(self) -> None:
        """Make requests again for up to five minutes: work has begun, and is not to be lost."""
        self._store = _open(self.uri, _PATIENT)

    def entries(self, folder: str) -> dict[str, Entry]:
        """Every object below the folder by its name in the store; "": all."""
        with _told(f"{self.uri}/{folder}"):
            return {
                entry["path"]: _entry(entry)
                for batch in self._store.list(folder or None)
                for entry in batch
            }

    def folders(self, folder: str) -> list[str]:
        """The names of the folders in the folder."""
        with _told(f"{self.uri}/{folder}"):
            prefixes = self._store.list_with_delimiter(folder or None)["common_prefixes"]
        return [name.rstrip("/").rpartition("/")[2] for name in prefixes]

    def entry(self, name: str) -> Entry | None:
        """One object; None without one."""
        with suppress(FileNotFoundError), _told(f"{self.uri}/{name}", is_sought=True):
            return _entry(self._store.head(name))
        return None

    def get(self, name: str) -> tuple[bytes, str | None]:
        """Content and the mark for `swap`; nothing and None where there is none."""
        with suppress(FileNotFoundError), _told(f"{self.uri}/{name}", is_sought=True):
            answer = self._store.get(name)
            return bytes(answer.bytes()), _condition(answer.meta)
        return b"", None

    def download(self, name: str, target: Path) -> str | None:
        """Write an object that a listing had to `target`, piece by piece; its version's mark, None
        where it has been deleted since."""
        with suppress(FileNotFoundError), _told(f"{self.uri}/{name}", is_sought=True):
            answer = _get_listed(self._store, name)
            with target.open("wb") as local:
                local.writelines(answer.stream())
            return _version(answer.meta).mark
        return None

    def put(self, name: str, content: bytes | Path) -> str:
        """Write an object, a large file in parts; it is there whole or not at all. Its version's
        mark."""
        with _told(f"{self.uri}/{name}", "written"):
            return str(self._store.put(name, content)["e_tag"] or "").strip('"')

    def copy(self, source: str, name: str, mark: str) -> str | None:
        """Have the store copy an object of that mark; the copy's. None: it is not there, or of
        Azure, whose copies may still be under way when it has answered."""
        entry = None if urlsplit(self.uri).scheme.startswith("a") else self.entry(source)
        if entry is None or entry.mark != mark:
            return None
        with _told(f"{self.uri}/{name}", "written"):
            self._store.copy(source, name)
            return _version(self._store.head(name)).mark

    def swap(self, name: str, content: bytes, mark: str | None) -> str | None:
        """Write an object if its mark is that one, or, of None, if there is none. Its new mark;
        None where it was not written."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode = "create" if mark is None else json.loads(mark)
        try:
            with _told(f"{self.uri}/{name}", "written"):
                return _condition(self._store.put(name, content, mode=mode, use_multipart=False))
        except (AlreadyExistsError, PreconditionError):
            return None

    def delete(self, names: Sequence[str]) -> None:
        """None there is as good."""
        if not names:
            return
        try:
            with _told(f"{self.uri}/{names[0]}", "deleted", is_sought=True):
                self._store.delete(list(names))
        except FileNotFoundError:  # not of S3: Azure's end at the first that is not there
            for name in names:
                place = f"{self.uri}/{name}"
                with suppress(FileNotFoundError), _told(place, "deleted", is_sought=True):
                    self._store.delete(name)


def _get_listed(store: Any, name: str) -> Any:
    """`get` of an object that a listing has. A store may be behind what it lists: as long as the
    object is listed, it is asked for again."""
    from obstore.exceptions import GenericError, NotFoundError

    for seconds in _BEHIND_SECONDS:
        with suppress(NotFoundError, FileNotFoundError):
            return store.get(name)
        listed = store.list(name.rpartition("/")[0] or None)
        if not any(entry["path"] == name for batch in listed for entry in batch):
            return store.get(name)
        time.sleep(seconds)
    raise GenericError("it is listed, and not there")


def _open(uri: str, retries: Any = _RETRIES) -> Any:
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    scheme = urlsplit(uri).scheme
    if scheme not in SCHEMES:
        raise ConfigError(
            f"{redact(uri)}: no storage URI that can be read",
            fix=f"one of {', '.join(f'{each}://' for each in SCHEMES)}",
        )
    if urlsplit(uri).query or "#" in uri:
        raise ConfigError(
            f"{redact(uri)}: a storage URI is a bucket and a folder, and nothing more",
            fix="region and endpoint are set in the environment: AWS_REGION, AWS_ENDPOINT_URL",
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
        fix = "AZURE_STORAGE_ACCOUNT_NAME names the account" if "Account" in reason else None
        raise ConfigError(f"{redact(uri)}: no storage URI: {redact(reason)}", fix=fix) from None


def _entry(meta: Any) -> Entry:
    return Entry(meta["size"], _version(meta).mark, meta["last_modified"])


def _version(meta: Any) -> Version:
    mark = (meta["e_tag"] or "").strip('"') or meta["last_modified"].isoformat()
    return Version(meta["size"], mark)


def _condition(meta: Any) -> str:
    """What an object that is replaced must still be: its entity tag, its version if it has one."""
    return json.dumps({key: meta[key] for key in ("e_tag", "version") if meta.get(key)})


@contextmanager
def _told(place: str, what: str = "read", *, is_sought: bool = False) -> Iterator[None]:
    """What goes wrong between here and the store, said with what to do.

    Args:
        is_sought: an object that is not there is an answer: FileNotFoundError.
    """
    from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError

    shown = redact(place)
    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise
    except (NotFoundError, FileNotFoundError):
        if is_sought:
            raise FileNotFoundError(shown) from None
        raise StorageError(
            f"{shown}: there is no such bucket, folder or file", fix=_PLACE
        ) from None
    except (BaseError, PermissionError) as error:
        reason = _reason(error)
        if "404 Not Found" in reason:  # a listing's word for a bucket that is not there
            raise StorageError(f"{shown}: there is no such bucket", fix=_PLACE) from None
        is_denied = _DENIED.search(f"{type(error).__name__}: {error}") is not None
        fix = f"try again once the store answers; else {_PLACE}"
        if is_denied or "169.254" in reason or "credential" in reason.lower():
            fix = _LOGIN.replace("read", "read" if what == "read" else "read, write and delete", 1)
        how = f"may not be {what}" if is_denied else f"cannot be {what} now"
        raise StorageError(f"{shown}: {how}: {reason}", fix=fix) from None


def _reason(error: BaseException) -> str:
    """What the store has answered, or else the first line of what is known."""
    text = str(error)
    status, said = _STATUS.search(text), _SAID.search(text)
    answered = [*(status.groups() if status else ()), *(said.groups() if said else ())]
    return redact(": ".join(map(first_line, answered)) or first_line(error))[:300]
