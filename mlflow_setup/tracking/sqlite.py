"""An SQLite file as MLflow's database: proved to be usable before anything relies on it."""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import psutil

WAIT_SECONDS = 30.0
"""How long a database that another process has locked is waited for."""


def prove_readable(database: Path) -> None:
    """Create the file if need be, and read from it; raises sqlite3.Error when that fails.

    MLflow itself would try a file that it cannot open for minutes.
    """
    with closing(sqlite3.connect(database, timeout=WAIT_SECONDS)) as connection:
        connection.execute("PRAGMA schema_version")


def prove_writable(database: Path) -> None:
    """Prove the file whole, not read-only, its disk with room for a page; changes nothing.

    Raises:
        sqlite3.Error: saying which.
    """
    timeout, manual = WAIT_SECONDS, None
    with closing(sqlite3.connect(database, timeout=timeout, isolation_level=manual)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version + 1}")  # a page, and its journal
        connection.execute("ROLLBACK")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"database disk image is malformed: {verdict}")


def holders(database: Path) -> str:
    """Other processes that have the file open: `process 4711 (mlflow)`."""
    names = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone, or another user's
            paths = {file.path for file in process.open_files()}
            if process.pid != psutil.Process().pid and str(database.resolve()) in paths:
                names.append(f"process {process.pid} ({process.name()})")
    return ", ".join(names) or "a process of another user or machine"
