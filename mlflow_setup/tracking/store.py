"""The MLflow store of the runs: its URI, client and experiment. No global state.

The default is an SQLite file in the storage folder, with an artifact folder beside it; otherwise a
tracking server (http, https) or any other database that MLflow supports.
"""

import math
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from mlflow_setup.errors import ConfigError, EnsweepError, IntegrityError
from mlflow_setup.filesystem.storage import storage_of
from mlflow_setup.schema import EXPERIMENT, Tag
from mlflow_setup.text import first_line, setting_text
from mlflow_setup.tracking.relocation import relocate
from mlflow_setup.tracking.remedies import LOCKED, remedy
from mlflow_setup.tracking.sqlite import (
    check_readable,
    check_writable,
    create_database,
    holders,
)
from mlflow_setup.uris import redact

if TYPE_CHECKING:  # MLflow is slow to import
    from mlflow_setup.tracking.client import Metric, MlflowClient, Run

ARTIFACTS_FOLDER = "mlartifacts"
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # the page shows runs first, not traces
    "mlflow.note.content": "Sweeps of multitask BERTs: one run for each sweep, with its trials as "
    "child runs, and one for each ensemble that was chosen or registered. *Views* has each "
    "sweep's trials, the best first.",
}
_LOCK_SECONDS = 60
_REFUSED = re.compile("error code 40[13]")
_PAGE_SIZE = 200  # runs per request: a busy server takes more than ten seconds for 1,000
_METRICS_PER_BATCH, _PARAMS_PER_BATCH = 800, 100  # MLflow's limit is 1,000 items per request
_MAX_VALUE = 5_990  # MLflow silently truncates a param's value at 6,000 characters


def resolve_tracking(storage: Path, uri: str | None = None) -> "Tracking":
    """The store at `uri`, else at MLFLOW_TRACKING_URI, else in the SQLite file in `storage`.

    Creates nothing, and does not connect.

    Raises:
        ConfigError: the SQLite file's path has a character that its URI cannot hold, or `storage`
            is an object store, which cannot hold an SQLite file.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    tracking = Tracking(uri or f"sqlite:///{storage_of(storage).database(storage)}")
    if tracking.database is None:
        return tracking
    if set("%?") & set(str(tracking.database)):
        raise ConfigError(f"{tracking.database}: the path of an SQLite file must not have % or ?")
    # absolute, so that it does not depend on the working directory
    return Tracking(f"sqlite:///{tracking.database.absolute()}")


@dataclass(frozen=True)
class Tracking:
    """An MLflow store. Connects at the first use of `client`."""

    uri: str  # may hold credentials: print `redact(uri)`
    experiment: str = EXPERIMENT

    @property
    def database(self) -> Path | None:
        """The SQLite file; None if a server or another database has the runs."""
        path = self.uri.removeprefix("sqlite:///")
        return Path(path) if self.uri.startswith("sqlite:///") and path else None

    @property
    def is_server(self) -> bool:
        """Whether the URI is that of a tracking server, not of a database."""
        return self.uri.startswith(("http://", "https://"))

    @cached_property
    def client(self) -> "MlflowClient":
        """MLflow's client. An SQLite file is created at first use, under a lock that also works on
        shared folders."""
        from mlflow_setup.tracking.client import MlflowClient, connect

        if self.database is None:
            return connect(self.uri)
        self.database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(f"{self.database}.lock", timeout=_LOCK_SECONDS):
            check_readable(self.database)
            if not self.database.stat().st_size:
                create_database(self.database)
            relocate(self.database, self.experiment, ARTIFACTS_FOLDER)
            client = MlflowClient(self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
        return client

    @cached_property
    def experiment_id(self) -> str:
        """The experiment's id, created if missing. The artifacts of an SQLite store are in the
        folder `mlartifacts` beside the file.

        Raises:
            ConfigError: the experiment is in MLflow's trash.
        """
        experiment = self.find_experiment()
        if experiment is not None:
            return experiment
        root = self.database and (self.database.absolute().parent / ARTIFACTS_FOLDER).as_uri()
        try:
            tags = EXPERIMENT_TAGS
            return str(self.client.create_experiment(self.experiment, root, tags))
        except _mlflow_error():
            experiment = self.find_experiment()  # another process may have created it meanwhile
            if experiment is None:
                raise
            return experiment

    def find_experiment(self) -> str | None:
        """The experiment's id; None if there is none yet. Creates nothing.

        Raises:
            ConfigError: the experiment is in MLflow's trash.
        """
        if self.database is not None and not self.database.exists():
            return None
        experiment = self.client.get_experiment_by_name(self.experiment)
        if experiment is None:
            return None
        if experiment.lifecycle_stage != "active":
            raise ConfigError(
                f"experiment {self.experiment!r} at {redact(self.uri)} is deleted",
                fix=f"mlflow experiments restore --experiment-id {experiment.experiment_id}",
            )
        return str(experiment.experiment_id)

    def search(self, tags: Mapping[str, str], status: str | None = None) -> "list[Run]":
        """All runs with these tags (and MLflow status), the oldest first.

        Raises:
            ConfigError: a tag's value cannot be searched for.
        """
        experiment_id = self.find_experiment()
        if experiment_id is None:
            return []
        require_searchable(tags)
        conditions = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        if status is not None:
            conditions.append(f"attributes.status = '{status}'")
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [experiment_id],
                filter_string=" and ".join(conditions),
                order_by=["attributes.start_time ASC"],
                max_results=_PAGE_SIZE,
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                return runs

    def log(
        self,
        run_id: str,
        *,
        metrics: Mapping[str, float] | None = None,
        timestamp: int = 0,
        step: int = 0,
        points: "Sequence[Metric]" = (),
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log to a run in as few batches as MLflow's limits allow; long values are truncated.

        `timestamp` (milliseconds since the Unix epoch) and `step` are for `metrics`; `points` are
        metrics with their own. Params that are not text are logged as JSON, and must not have
        another value on the run already.

        Raises:
            IntegrityError: a metric is not finite; nothing is logged.
        """
        from mlflow_setup.tracking.client import Metric, Param, RunTag

        own = [Metric(key, value, timestamp, step) for key, value in (metrics or {}).items()]
        values = [*points, *own]
        for each in values:
            if not math.isfinite(each.value):
                problem = f"metric {each.key} at step {each.step} is {each.value}"
                raise IntegrityError(f"{problem}, not a finite number")
        texts = [Param(key, truncate(setting_text(value))) for key, value in (params or {}).items()]
        marks = [RunTag(key, truncate(value)) for key, value in (tags or {}).items()]
        while values or texts or marks:
            self.client.log_batch(
                run_id,
                metrics=values[:_METRICS_PER_BATCH],
                params=texts[:_PARAMS_PER_BATCH],
                tags=marks,
            )
            del values[:_METRICS_PER_BATCH], texts[:_PARAMS_PER_BATCH]
            marks = []

    def check(self, *, may_be_away: bool = False) -> None:
        """Check that runs can be written here, creating the database and the experiment.

        Args:
            may_be_away: accept a server that cannot be reached, but not one that denies access.

        Raises:
            ConfigError: not reachable, denied, or not usable; credentials are masked.
        """
        self.check_database()
        try:
            with self.errors():
                _ = self.experiment_id
        except ConfigError as error:
            if not may_be_away or _REFUSED.search(error.problem):
                raise

    def check_database(self) -> None:
        """Check that the SQLite file, if there is one, is not corrupt and can be written. Fast.

        Raises:
            ConfigError: it is corrupt or cannot be written.
        """
        with self.errors():
            if self.database is not None and self.database.exists():
                check_writable(self.database)

    def check_writable(self) -> None:
        """Check as `check`, and by writing a tag on the experiment.

        Raises:
            ConfigError: as `check`.
        """
        self.check()
        with self.errors():
            self.client.set_experiment_tag(self.experiment_id, Tag.PLANNED, f"{time.time():.0f}")

    @contextmanager
    def errors(self, error: type[EnsweepError] = ConfigError) -> Iterator[None]:
        """Turn whatever MLflow, its database, the network or the disk raises into `error`."""
        try:
            yield
        except Exception as cause:
            if not isinstance(cause, _tracking_errors()):
                raise
            reason = redact(first_line(cause))
            if LOCKED in reason and self.database is not None:
                reason += f" by {holders(self.database)}"
            raise error(
                f"MLflow tracking at {redact(self.uri)}: {reason}",
                fix=remedy(reason, self.database, is_server=self.is_server),
            ) from None


def require_searchable(tags: Mapping[str, str]) -> None:
    """Raise ConfigError for a tag's value that MLflow cannot search for."""
    for key, value in tags.items():
        if not re.fullmatch(r"[\w.\- /:]*", value):
            raise ConfigError(f"{value!r} cannot be the {key} of a run")


def _mlflow_error() -> type[Exception]:
    from mlflow_setup.tracking.client import MlflowException

    error: type[Exception] = MlflowException
    return error


def _tracking_errors() -> tuple[type[Exception], ...]:
    """The errors that MLflow, its database, the network or the disk may raise."""
    if "mlflow" not in sys.modules:
        return (sqlite3.Error, OSError, ImportError)
    from sqlalchemy.exc import SQLAlchemyError

    return (_mlflow_error(), SQLAlchemyError, sqlite3.Error, OSError, ImportError)


def truncate(value: str) -> str:
    """`value` truncated to the length that MLflow allows for a param or a tag."""
    return value if len(value) <= _MAX_VALUE else f"{value[: _MAX_VALUE - 3]}..."
