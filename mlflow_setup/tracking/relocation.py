"""A storage folder was renamed: its database names the artifacts by their old place."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow_setup.schema import Tag
from mlflow_setup.tracking.sqlite import WAIT_SECONDS

_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("tags", "value"),
)
"""Tables and columns of MLflow in which the place of an artifact stands."""
_PLACE_TAGS = (Tag.WEIGHTS_URI.value,)


def relocate(database: Path, experiment: str, artifacts: str) -> None:
    """Have the database name artifacts, models and weights by the folder that it is in now.

    Nothing is changed where the folder is the same, reached by another path, or where the artifacts
    were left behind on purpose: the old folder has them and the new has none.

    Args:
        artifacts: name of the artifacts' folder beside the database.

    Raises:
        sqlite3.Error: the database cannot be read or written.
    """
    with closing(sqlite3.connect(database, timeout=WAIT_SECONDS)) as connection:
        old, new = _recorded(connection, experiment, artifacts), database.absolute().parent
        if old is None or old == new or old.resolve() == new.resolve():
            return
        if (old / artifacts).is_dir() and not (new / artifacts).is_dir():
            return
        with connection:
            for table, column in _PLACES:
                _rename(connection, table, column, old, new)


def _recorded(connection: sqlite3.Connection, experiment: str, artifacts: str) -> Path | None:
    """The folder that the database was made in; None: its artifacts lie elsewhere."""
    query = "SELECT artifact_location FROM experiments WHERE name = ?"
    if not _columns(connection, "experiments"):
        return None
    row = connection.execute(query, (experiment,)).fetchone()
    place = urlsplit(row[0] if row else "")
    path = Path(unquote(place.path))
    return path.parent if place.scheme == "file" and path.name == artifacts else None


def _rename(connection: sqlite3.Connection, table: str, column: str, old: Path, new: Path) -> None:
    """Prefixes as URIs and as paths; the part below the folder stays."""
    if column not in _columns(connection, table):  # of another version of MLflow
        return
    only = f" AND key IN ({', '.join('?' * len(_PLACE_TAGS))})" if table == "tags" else ""
    keys = _PLACE_TAGS if table == "tags" else ()
    for before, after in ((old.as_uri(), new.as_uri()), (str(old), str(new))):
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
            f"WHERE substr({column}, 1, ?) = ?{only}",
            (after, len(before) + 1, len(before) + 1, f"{before}/", *keys),
        )


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
