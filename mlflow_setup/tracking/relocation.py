"""Update the artifact paths in MLflow's database after its storage folder was renamed or moved."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow_setup.schema import Tag
from mlflow_setup.tracking.sqlite import WAIT_SECONDS

_PATH_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("tags", "value"),
)
"""Tables and columns of MLflow's database that hold paths or URIs of artifacts."""
_PATH_TAGS = (Tag.WEIGHTS_URI.value,)


def relocate(database: Path, experiment: str, artifacts: str) -> None:
    """Update the paths of artifacts, models and weights to the folder that the database is in now.

    Changes nothing if the old path leads to the same folder, or if only the old folder has
    artifacts, because then only the database was moved.

    Args:
        artifacts: name of the artifacts' folder beside the database.

    Raises:
        sqlite3.Error: the database cannot be read or written.
    """
    with closing(sqlite3.connect(database, timeout=WAIT_SECONDS)) as connection:
        old, new = _stored_folder(connection, experiment, artifacts), database.absolute().parent
        if old is None or old == new or old.resolve() == new.resolve():
            return
        if (old / artifacts).is_dir() and not (new / artifacts).is_dir():
            return
        with connection:
            for table, column in _PATH_COLUMNS:
                _replace_prefix(connection, table, column, old, new)


def _stored_folder(connection: sqlite3.Connection, experiment: str, artifacts: str) -> Path | None:
    """The folder of the database, as the experiment records it; None if its artifacts are stored
    elsewhere."""
    query = "SELECT artifact_location FROM experiments WHERE name = ?"
    if not _columns(connection, "experiments"):
        return None
    row = connection.execute(query, (experiment,)).fetchone()
    place = urlsplit(row[0] if row else "")
    path = Path(unquote(place.path))
    return path.parent if place.scheme == "file" and path.name == artifacts else None


def _replace_prefix(
    connection: sqlite3.Connection, table: str, column: str, old: Path, new: Path
) -> None:
    """Replace the folder `old` by `new` at the start of URIs and paths in a column."""
    if column not in _columns(connection, table):  # of another version of MLflow
        return
    keys = _PATH_TAGS if table == "tags" else ()
    only = f" AND key IN ({', '.join('?' * len(keys))})" if keys else ""
    for before, after in ((old.as_uri(), new.as_uri()), (str(old), str(new))):
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
            f"WHERE substr({column}, 1, ?) = ?{only}",
            (after, len(before) + 1, len(before) + 1, f"{before}/", *keys),
        )


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
