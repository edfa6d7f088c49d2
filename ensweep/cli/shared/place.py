"""Where a command finds sweeps and runs, as two options that most commands take."""

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
    """Where sweeps lie, and where runs are tracked."""

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
        """Raises ConfigError where sweeps lie in an object store, and runs are tracked nowhere."""
        if self.needs_tracking and storage_of(self.storage).is_remote:
            _ = self.tracking

    @cached_property
    def tracking(self) -> "Tracking":
        """Nothing is connected to yet."""
        from mlflow_setup.tracking.store import resolve_tracking

        return resolve_tracking(self.storage, self.tracking_uri)

    def command(self, *words: str) -> str:
        """`ensweep WORDS` with these places, quoted, to be typed as it is: what the environment
        says is not repeated, and no password is shown."""
        from mlflow_setup.uris import redact

        given, uri = ["ensweep", *words], self.tracking_uri
        if self.storage != storage_folder(os.environ.get("ENSWEEP_STORAGE", "runs")):
            given += ["--storage", storage_of(self.storage).address(self.storage)]
        if uri != os.environ.get("MLFLOW_TRACKING_URI") and uri is not None:
            given += ["--tracking-uri", redact(uri)]
        return shlex.join(given)

    def say_next(self, *words: str) -> None:
        """The same on stderr, as what comes next."""
        typer.echo(f"next: {self.command(*words)}", err=True)

    @property
    def cache(self) -> Path:
        """The folder of what is fetched from a tracking server."""
        if storage_of(self.storage).is_remote:
            return cache_folder() / "runs"
        return self.storage / ".cache"


@dataclasses.dataclass(frozen=True)
class PlaceElsewhere(Place):
    """The same as other machines have it: where their runs are tracked, they know."""

    needs_tracking: ClassVar[bool] = False
