"""Where what is written lies: on a file system, or at a storage URI.

All code reads and writes local folders. A storage at a URI has a working copy here: what is written
into it whole (`mlflow_setup.filesystem.atomic`) is published as it is written, and what others have
published is asked for by `pull` and `fetch`. A folder in no working copy is the storage itself, and
there is nothing to publish or to ask for.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.paths import as_given, safe_name
from mlflow_setup.uris import is_uri, redact

if TYPE_CHECKING:
    from mlflow_setup.filesystem.cells import Cell


class Lock(Protocol):
    """One holder at a time, on all machines."""

    def acquire(self, timeout: float) -> object:
        """Raises filelock.Timeout when it is held for that many seconds, and on."""
        ...

    def release(self) -> None: ...


class Storage:
    """A file system: a path is the place itself."""

    is_remote = False

    def address(self, path: Path) -> str:
        """The path as every machine names it."""
        return str(path)

    def publish(self, path: Path) -> None:
        """A file or folder has been written: have others see it, whole or not at all.

        Raises:
            StorageError: the store cannot be written to now.
        """

    def withdraw(self, path: Path) -> None:
        """A file or folder has been removed; raises StorageError as `publish`."""

    def pull(self, folder: Path, *patterns: str) -> None:
        """Bring files below the folder up to what is published, and remove what no longer is.

        Args:
            patterns: names below the folder; `*` stands for any text but a slash.

        Raises:
            StorageError: the store cannot be read now.
        """

    def pull_file(self, path: Path) -> None:
        """`pull` of one file."""

    def fetch(self, folder: Path) -> None:
        """Bring all of a folder that was published whole; one that was published in part, by who
        did not come to the end of it, is not there. Raises StorageError as `pull`."""

    def num_bytes(self, path: Path) -> int:
        """The size of a file, or of all that is published below a folder."""
        from mlflow_setup.filesystem.atomic import num_bytes

        return num_bytes(path)

    def names(self, folder: Path) -> list[str]:
        """Folders in the folder."""
        return [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []

    def begin(self, folder: Path) -> None:
        """What lies here of the folder is forgotten: it is what is published and nothing else."""

    def end(self, folder: Path) -> None:
        """All is published, and not needed here any more."""

    def claim(self, folder: Path) -> None:
        """Make the folder; raises FileExistsError where it is there: of all who ask, one makes
        it."""
        folder.mkdir(mode=0o700)

    def give_back(self, folder: Path) -> None:
        """Undo `claim`, where nothing was made of the folder; else nothing, or an OSError."""
        from mlflow_setup.filesystem.atomic import remove_leftovers

        remove_leftovers(folder)
        folder.rmdir()

    def cell(self, path: Path) -> "Cell":
        """The small file at `path`, to be changed by one process at a time."""
        from mlflow_setup.filesystem.cells import FileCell

        return FileCell(path)

    def lock(self, path: Path) -> Lock:
        """The lock at `path`."""
        from filelock import FileLock

        return FileLock(path)

    def database(self, folder: Path) -> Path:
        """Where the folder's database lies; raises ConfigError where none can."""
        return folder / "mlflow.db"

    def probe(self) -> None:
        """Prove that leases hold here; raises ConfigError where the store ignores conditions."""

    def raise_flag(self, path: Path) -> None:
        """Have `is_raised` be true in every process."""
        path.touch()

    def lower_flag(self, path: Path) -> None:
        """Undo `raise_flag`."""
        path.unlink(missing_ok=True)

    def is_raised(self, path: Path) -> bool:
        """Whether the flag at `path` is up. Quick enough to be asked before every step."""
        return path.exists()


_LOCAL = Storage()
_copies: dict[Path, Storage] = {}


def storage_of(path: Path) -> Storage:
    """The storage that a path of this machine is in."""
    if _copies:
        place = path.absolute()
        for root, storage in _copies.items():
            if place.is_relative_to(root):
                return storage
    return _LOCAL


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
    from mlflow_setup.filesystem.working_copy import open_copy

    copy = open_copy(given, copies)
    _copies.setdefault(copy.root, copy)
    return copy.root


def folder_to_make(place: str | Path) -> Path:
    """The path of a new folder; of `s3://bucket/prefix/NAME` that in the working copy of
    `s3://bucket/prefix`. Raises ConfigError as `storage_folder`, or where there is no name."""
    given = as_given(place)
    if not is_uri(given):
        return Path(place)
    from mlflow_setup.filesystem.object_store import split_file

    storage, name = split_file(given.rstrip("/"))
    return storage_folder(storage) / safe_name(name, f"{redact(storage)}:")


def _path_of(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ConfigError(f"{redact(uri)}: no URI of a folder here", fix="file:///absolute/path")
    return Path(unquote(parts.path))
