"""What to do about an error of MLflow, by its message."""

import errno
import os
import re
from pathlib import Path

LOCKED = "database is locked"  # SQLite's message


def remedy(reason: str, database: Path | None, *, is_server: bool) -> str:
    """The advice for an error.

    Args:
        reason: the message of MLflow, its database, the network or the disk, on one line.
        database: the SQLite file with the runs; None if they are elsewhere.
        is_server: whether the runs are on a tracking server.
    """
    if re.search("(No module named|import of) '?psycopg", reason):
        return "pip install 'ensweep[postgres]', the driver of PostgreSQL"
    if "No module named" in reason:
        return "install the driver of the database that the URI names"
    if "error code 401" in reason:
        return (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN, here and in the environment of a cluster's nodes"
        )
    if "error code 403" in reason and "Invalid Host" not in reason:
        return "ask the server's administrator to let this login read, write and create there"
    if "schema" in reason:
        return "take a copy of the database, then: mlflow db upgrade DATABASE_URI"
    if "Invalid Host header" in reason:
        return "start the server with --allowed-hosts 'NAME,NAME:*', its own name for NAME"
    if database is not None:
        return _sqlite_remedy(database, reason)
    if is_server:
        return (
            "start the server, or correct --tracking-uri or MLFLOW_TRACKING_URI; with both "
            "unset runs are stored in the storage folder"
        )
    return (
        "a tracking URI is http://HOST:PORT, sqlite:///FILE or another database's URI; the "
        "older ./mlruns folders are converted by mlflow migrate-filestore"
    )


def _sqlite_remedy(database: Path, reason: str) -> str:
    if LOCKED in reason:
        return "end that process, or wait for it, and try again"
    if "malformed" in reason or "not a database" in reason:
        return (
            f"move {database} away, then run ensweep sync SWEEP for each sweep, which writes its "
            "runs again from its folder"
        )
    if "is full" in reason or os.strerror(errno.ENOSPC) in reason:
        return f"make room on the disk of {database}"
    return f"make {database.parent} and the file in it writable, and leave free space on its disk"
