"""The SQLite file that is MLflow's database: created and checked."""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from mlflow_setup.filesystem.storage import TEMPORARY

WAIT_SECONDS = 30.0
"""How long to wait for a database that another process has locked."""


def create_database(database: Path) -> None:
    """Create the database atomically: MLflow fails on one that lacks some of the tables."""
    from mlflow_setup.tracking.client import MlflowClient

    with TemporaryDirectory(prefix=TEMPORARY, dir=database.parent) as folder:
        made = Path(folder) / database.name
        MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)
        made.replace(database)


def check_readable(database: Path) -> None:
    """Open the file, creating it if missing; raises sqlite3.Error if that fails.

    MLflow itself would retry for minutes.
    """
    with closing(sqlite3.connect(database, timeout=WAIT_SECONDS)) as connection:
        connection.execute("PRAGMA schema_version")


def check_writable(database: Path) -> None:
    """Check that the file is not corrupt, locked or read-only, and that its disk is not full.
    Changes nothing.

    Raises:
        sqlite3.Error: saying which.
    """
    timeout, manual = WAIT_SECONDS, None
    with closing(sqlite3.connect(database, timeout=timeout, isolation_level=manual)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version + 1}")  # writes a page and a journal
        connection.execute("ROLLBACK")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"database disk image is malformed: {verdict}")


def holders(database: Path) -> str:
    """The other processes that have the file open, for a message: `process 4711 (mlflow)`."""
    names = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone, or another user's
            paths = {file.path for file in process.open_files()}
            if process.pid != psutil.Process().pid and str(database.resolve()) in paths:
                names.append(f"process {process.pid} ({process.name()})")
    return ", ".join(names) or "a process of another user or machine"
