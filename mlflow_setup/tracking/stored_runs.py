"""Read runs directly from MLflow's SQLite file: for a thousand runs in a tenth of the time that
MLflow takes. If its tables are not as expected, read the runs through MLflow.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any

from mlflow_setup.tracking.relocation import relocate
from mlflow_setup.tracking.sqlite import WAIT_SECONDS
from mlflow_setup.tracking.store import ARTIFACTS_FOLDER, Tracking, require_searchable


@dataclass(frozen=True)
class StoredInfo:
    """The part of `mlflow.entities.RunInfo` that is used."""

    run_id: str
    status: str
    start_time: int  # milliseconds since the Unix epoch
    artifact_uri: str


@dataclass(frozen=True)
class StoredData:
    """The same as `mlflow.entities.RunData`: tags, params, and the last value of each metric."""

    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredRun:
    """A replacement for `mlflow.entities.Run`."""

    info: StoredInfo
    data: StoredData


def read_runs(tracking: Tracking, tags: Mapping[str, str], status: str | None = None) -> list[Any]:
    """All runs with these tags (and MLflow status), the oldest first, as `Tracking.search`.

    Raises:
        sqlite3.Error: the file cannot be read.
        ConfigError: a tag's value cannot be searched for.
    """
    require_searchable(tags)
    database = tracking.database
    if database is None:
        return tracking.search(tags, status)
    if not database.exists():
        return []
    try:
        relocate(database, tracking.experiment, ARTIFACTS_FOLDER)
        return list(_read(database, tracking.experiment, tags, status))
    except (sqlite3.OperationalError, LookupError) as error:
        _require_unknown_tables(error)
        return tracking.search(tags, status)


def artifact_uri_of(tracking: Tracking, run_id: str) -> str:
    """The URI of a run's artifacts.

    Raises:
        sqlite3.Error: the file cannot be read.
        MlflowException: there is no such run.
    """
    database = tracking.database
    if database is not None and database.exists():
        try:
            relocate(database, tracking.experiment, ARTIFACTS_FOLDER)
            with closing(sqlite3.connect(database, timeout=WAIT_SECONDS)) as connection:
                query = "SELECT artifact_uri FROM runs WHERE run_uuid = ?"
                if row := connection.execute(query, [run_id]).fetchone():
                    return str(row[0])
        except sqlite3.OperationalError as error:
            _require_unknown_tables(error)
    return str(tracking.client.get_run(run_id).info.artifact_uri)


def _require_unknown_tables(error: Exception) -> None:
    """Raise the error again unless it is about a missing experiment, table or column."""
    if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
        raise error


def _read(
    database: Path, experiment: str, tags: Mapping[str, str], status: str | None
) -> Iterator[StoredRun]:
    """Raises LookupError if the experiment is in MLflow's trash."""
    with closing(sqlite3.connect(database, timeout=WAIT_SECONDS)) as connection:
        query = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ?"
        experiment_row = connection.execute(query, [experiment]).fetchone()
        if experiment_row is None:
            return
        if experiment_row[1] != "active":
            raise LookupError(experiment)
        wanted = "FROM runs r WHERE r.experiment_id = ? AND r.lifecycle_stage = 'active'"
        given = [experiment_row[0]]
        for key, value in tags.items():
            wanted += " AND EXISTS (SELECT 1 FROM tags t WHERE t.run_uuid = r.run_uuid"
            wanted += " AND t.key = ? AND t.value = ?)"
            given += [key, value]
        if status is not None:
            wanted += " AND r.status = ?"
            given += [status]
        columns = f"SELECT r.run_uuid, r.status, r.start_time, r.artifact_uri {wanted}"
        rows = connection.execute(f"{columns} ORDER BY r.start_time, r.run_uuid", given)
        runs = {row[0]: StoredRun(StoredInfo(*row), StoredData()) for row in rows}
        of_these = f"WHERE run_uuid IN (SELECT r.run_uuid {wanted})"
        for table in ("tags", "params"):
            rows = connection.execute(f"SELECT run_uuid, key, value FROM {table} {of_these}", given)
            for run_id, key, value in rows:
                getattr(runs[run_id].data, table)[key] = value
        values = f"SELECT run_uuid, key, value, is_nan FROM latest_metrics {of_these}"
        for run_id, key, value, is_nan in connection.execute(values, given):
            runs[run_id].data.metrics[key] = nan if is_nan else value
        yield from runs.values()
