"""Where runs are tracked: the URI, one explicit client, the experiment. No global state.

The embedded default is an SQLite file in the storage folder with an artifact folder beside it;
anything else is a tracking server (http, https) or a database that MLflow knows.
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
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from mlflow_setup.errors import ConfigError, EnsweepError, IntegrityError
from mlflow_setup.filesystem.storage import TEMPORARY, storage_of
from mlflow_setup.schema import EXPERIMENT, Tag
from mlflow_setup.text import first_line, setting_text
from mlflow_setup.tracking.relocation import relocate
from mlflow_setup.tracking.remedies import LOCKED, remedy
from mlflow_setup.tracking.sqlite import holders, prove_readable, prove_writable
from mlflow_setup.uris import redact

if TYPE_CHECKING:  # MLflow takes long to load, and its driver has other things to begin with
    from mlflow_setup.tracking.client import Metric, MlflowClient, Run

ARTIFACTS_FOLDER = "mlartifacts"
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # its page opens on runs, not on traces
    "mlflow.note.content": "Sweeps of multitask BERTs: a run a sweep, below it one a trial, and "
    "one for each ensemble that was chosen or registered. *Views* has each sweep's trials, the "
    "best first.",
}
_LOCK_SECONDS = 60
_REFUSED = re.compile("error code 40[13]")
_PAGE = 200  # runs of one answer: of 1,000 a busy server makes one for more than ten seconds
_METRICS_PER_BATCH, _PARAMS_PER_BATCH = 800, 100  # MLflow takes 1,000 of all in one request
_MAX_VALUE = 5_990  # MLflow cuts a param's value at 6,000 characters without a mark


def resolve_tracking(storage: Path, uri: str | None = None) -> "Tracking":
    """Argument, else the environment's MLFLOW_TRACKING_URI, else `mlflow.db` in `storage`.

    Nothing is created or connected to yet.

    Raises:
        ConfigError: the path of an SQLite file that a URI cannot spell; none can lie in `storage`.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    tracking = Tracking(uri or f"sqlite:///{storage_of(storage).database(storage)}")
    if tracking.database is None:
        return tracking
    if set("%?") & set(str(tracking.database)):
        raise ConfigError(f"{tracking.database}: the path of an SQLite file must not have % or ?")
    # a relative path would mean another file in another working directory
    return Tracking(f"sqlite:///{tracking.database.absolute()}")


@dataclass(frozen=True)
class Tracking:
    """A place where runs are tracked. Connects at the first use of `client`."""

    uri: str  # may hold credentials: print `redact(uri)`
    experiment: str = EXPERIMENT

    @property
    def database(self) -> Path | None:
        """The SQLite file, or None when a server or another database keeps the runs."""
        path = self.uri.removeprefix("sqlite:///")
        return Path(path) if self.uri.startswith("sqlite:///") and path else None

    @property
    def is_server(self) -> bool:
        """Whether a tracking server answers at the URI, rather than a database."""
        return self.uri.startswith(("http://", "https://"))

    @cached_property
    def client(self) -> "MlflowClient":
        """Creates the database at first use, one process at a time, on shared folders too."""
        from mlflow_setup.tracking.client import MlflowClient

        if self.database is None:
            return MlflowClient(self.uri, registry_uri=self.uri)
        self.database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(f"{self.database}.lock", timeout=_LOCK_SECONDS):
            prove_readable(self.database)
            if not self.database.stat().st_size:
                _create(self.database)
            relocate(self.database, self.experiment, ARTIFACTS_FOLDER)
            client = MlflowClient(self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
        return client

    @cached_property
    def experiment_id(self) -> str:
        """Created if missing; beside an SQLite file its artifacts go to `mlartifacts`.

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
            experiment = self.find_experiment()  # another process was quicker
            if experiment is None:
                raise
            return experiment

    def find_experiment(self) -> str | None:
        """The experiment's id, or None when nothing was tracked here yet. Creates nothing.

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
            ConfigError: a tag's value that cannot be searched for.
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
                max_results=_PAGE,
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
        """One batch onto a run, or as few as MLflow's limits allow; long values are cut.

        `points` are metrics of several steps, added to `metrics`, whose `timestamp` is in
        milliseconds since the Unix epoch. Params that are not text are written as JSON, and must
        not be on the run yet with another value.

        Raises:
            IntegrityError: a metric that is not finite; nothing is logged.
        """
        from mlflow_setup.tracking.client import Metric, Param, RunTag

        own = [Metric(key, value, timestamp, step) for key, value in (metrics or {}).items()]
        values = [*points, *own]
        for each in values:
            if not math.isfinite(each.value):
                problem = f"metric {each.key} at step {each.step} is {each.value}"
                raise IntegrityError(f"{problem}, not a finite number")
        texts = [Param(key, cut(setting_text(value))) for key, value in (params or {}).items()]
        marks = [RunTag(key, cut(value)) for key, value in (tags or {}).items()]
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
        """Prove that runs can be tracked here, creating the database and the experiment.

        Args:
            may_be_away: a server that cannot be reached is no error, only one that refuses is.

        Raises:
            ConfigError: not reachable, refused, or not usable; credentials masked.
        """
        self.prove_database()
        try:
            with self.errors():
                _ = self.experiment_id
        except ConfigError as error:
            if not may_be_away or _REFUSED.search(error.problem):
                raise

    def prove_database(self) -> None:
        """Check that an SQLite file, if there is one, is whole and can be written; quick.

        Raises:
            ConfigError: it is not.
        """
        with self.errors():
            if self.database is not None and self.database.exists():
                prove_writable(self.database)

    def check_writable(self) -> None:
        """Prove it by writing a tag of the experiment; `check` may find all there already.

        Raises:
            ConfigError: as `check`.
        """
        self.check()
        with self.errors():
            self.client.set_experiment_tag(self.experiment_id, Tag.PLANNED, f"{time.time():.0f}")

    @contextmanager
    def errors(self, error: type[EnsweepError] = ConfigError) -> Iterator[None]:
        """Whatever MLflow, its database, the network or the disk raises becomes `error`."""
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
    """Raises ConfigError for a tag's value that cannot be searched for."""
    for key, value in tags.items():
        if not re.fullmatch(r"[\w.\- /:]*", value):
            raise ConfigError(f"{value!r} cannot be the {key} of a run")


def _mlflow_error() -> type[Exception]:
    from mlflow_setup.tracking.client import MlflowException

    error: type[Exception] = MlflowException
    return error


def _tracking_errors() -> tuple[type[Exception], ...]:
    """Whatever MLflow, its database, the network or the disk raises."""
    if "mlflow" not in sys.modules:  # it has raised nothing then
        return (sqlite3.Error, OSError, ImportError)
    from sqlalchemy.exc import SQLAlchemyError

    return (_mlflow_error(), SQLAlchemyError, sqlite3.Error, OSError, ImportError)


def _create(database: Path) -> None:
    """Make the database, put in its place once all tables are there: MLflow needs all of them."""
    from mlflow_setup.tracking.client import MlflowClient

    with TemporaryDirectory(prefix=TEMPORARY, dir=database.parent) as folder:
        made = Path(folder) / database.name
        MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)
        made.replace(database)


def cut(value: str) -> str:
    """`value` as it fits into a param or a tag."""
    return value if len(value) <= _MAX_VALUE else f"{value[: _MAX_VALUE - 3]}..."
