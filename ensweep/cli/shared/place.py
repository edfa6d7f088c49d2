"""The options --storage and --tracking-uri, which most commands take."""

import dataclasses
import os
import shlex
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from mlflow_setup.filesystem.opening import storage_folder
from mlflow_setup.filesystem.paths import cache_folder
from mlflow_setup.filesystem.storage import storage_of

if TYPE_CHECKING:
    from mlflow_setup.tracking.store import Tracking


@dataclasses.dataclass(frozen=True)
class Place:
    """The storage of the sweeps, and the MLflow store of their runs."""

    storage: Annotated[
        Path,
        typer.Option(
            "--storage",
            envvar="ENSWEEP_STORAGE",
            help="Folder with the sweeps, or a storage URI (s3://, gs://, az://).",
        ),
        storage_folder,
    ] = Path("runs")
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            "--tracking-uri",
            envvar="MLFLOW_TRACKING_URI",
            help="MLflow server or database; default: mlflow.db in the storage folder.",
        ),
    ] = None

    needs_tracking: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises ConfigError if the storage is an object store and there is no tracking server."""
        if self.needs_tracking and storage_of(self.storage).is_remote:
            _ = self.tracking

    @cached_property
    def tracking(self) -> "Tracking":
        """The MLflow store; does not connect."""
        from mlflow_setup.tracking.store import resolve_tracking

        return resolve_tracking(self.storage, self.tracking_uri)

    def command(self, *words: str) -> str:
        """The command `ensweep WORDS` with these options, quoted for a shell. Leaves out options
        that the environment gives, and masks passwords."""
        from mlflow_setup.uris import redact

        given, uri = ["ensweep", *words], self.tracking_uri
        if self.storage != storage_folder(os.environ.get("ENSWEEP_STORAGE", "runs")):
            given += ["--storage", storage_of(self.storage).address(self.storage)]
        if uri != os.environ.get("MLFLOW_TRACKING_URI") and uri is not None:
            given += ["--tracking-uri", redact(uri)]
        return shlex.join(given)

    def say_next(self, *words: str) -> None:
        """Print the next command, with these options, on stderr."""
        typer.echo(f"next: {self.command(*words)}", err=True)

    @property
    def cache(self) -> Path:
        """The folder for downloads from a tracking server."""
        if storage_of(self.storage).is_remote:
            return cache_folder() / "runs"
        return self.storage / ".cache"


@dataclasses.dataclass(frozen=True)
class RemotePlace(Place):
    """The same options for a job on other machines, which may set their own tracking URI."""

    needs_tracking: ClassVar[bool] = False
