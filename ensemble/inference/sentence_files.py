"""Reads files of sentences to label in chunks of rows, so that only one chunk is in memory.

The formats are delimited text with a header, JSONL (objects with the tasks' sentence columns, or
lists), Parquet and lines of text, read by `trainable.data.tables` as in training. Ids and sentences
are not changed; a missing sentence is an error that names its line.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from ensemble.inference.ensemble import check_row
from mlflow_setup.errors import DataError
from mlflow_setup.text import is_text, printable
from trainable.config.tasks import Task
from trainable.data.defects import FIXES
from trainable.data.tables import (
    Fault,
    delimiter_of,
    is_json_lines,
    is_parquet,
    json_rows,
    parquet_rows,
    reading,
    table_rows,
    text_lines,
)

CHUNK = 4096
"""Rows that are read, labelled and written together."""

_Row = tuple[str, str | None, list[Any]]
"""Place, id if there is one, and the cells of the tasks' sentence columns."""


def read_file(
    path: Path, tasks: Sequence[Task], num_rows: int | None = None
) -> Iterator[pd.DataFrame]:
    """Yield the tasks' sentence columns of a delimited, JSONL or Parquet file in chunks, preceded
    by its ids if it has any.

    The delimiter is detected from the header: one of the tasks' own, or a tab, comma, semicolon or
    bar.

    Args:
        num_rows: rows per chunk; default: `CHUNK`.

    Raises:
        DataError: the file does not exist or is not UTF-8, a column is missing, there are no rows,
            or a sentence is missing.
    """
    names, _ = _columns(tasks)
    source = str(path)
    with reading(path):
        if is_parquet(path):
            rows = _records(source, parquet_rows(path), tasks)
            yield from _frames(source, rows, names, num_rows)
            return
        with path.open("rb") as stream:
            lines = _lines(source, stream)
            if is_json_lines(path):
                rows = _records(source, json_rows(lines), tasks)
            else:
                rows = _table_rows(source, lines, tasks)
            yield from _frames(source, rows, names, num_rows)


def count_rows(path: Path) -> int | None:
    """Return the number of rows of a file, without parsing it: from a Parquet file's metadata, else
    the number of lines, which is too large if cells contain line breaks. None: it cannot be read,
    or only once."""
    if not path.is_file():  # a pipe can be read only once
        return None
    try:
        if is_parquet(path):
            import pyarrow.parquet as pq

            return int(pq.read_metadata(path).num_rows)
        with path.open("rb") as stream:
            num_lines = sum(
                block.count(b"\n") for block in iter(partial(stream.read, 1 << 20), b"")
            )
    except (OSError, ValueError):  # Arrow's errors are subclasses
        return None
    return max(1, num_lines - (not is_json_lines(path)))


def read_stream(
    source: str, stream: BinaryIO, tasks: Sequence[Task], num_rows: int | None = None
) -> Iterator[pd.DataFrame]:
    """Yield the examples of a stream, one per line, in chunks.

    Args:
        source: its name in error messages, for instance standard input's.

    Raises:
        DataError: as `read_file`.
    """
    return read_lines(source, _lines(source, stream), tasks, num_rows)


def read_lines(
    source: str, lines: Iterable[str], tasks: Sequence[Task], num_rows: int | None = None
) -> Iterator[pd.DataFrame]:
    """Yield the examples of text lines, one per line, in chunks; the two sentences of a pair are
    separated by a tab.

    Raises:
        DataError: as `read_file`.
    """
    names, _ = _columns(tasks)
    texts = (line.rstrip("\r\n") for line in lines)
    rows = (
        (f"{source}:{number}", None, line.split("\t") if len(names) > 1 else [line])
        for number, line in enumerate(texts, start=1)
    )
    return _frames(source, rows, names, num_rows)


def _columns(tasks: Sequence[Task]) -> tuple[tuple[str, ...], str]:
    """Return the sentence columns of all tasks, each once, and the column of ids."""
    names = dict.fromkeys(name for task in tasks for name in task.columns.sentences)
    return tuple(names), tasks[0].columns.id


def _frames(
    source: str, rows: Iterable[_Row], names: Sequence[str], num_rows: int | None
) -> Iterator[pd.DataFrame]:
    has_ids = None
    rows = iter(rows)
    while chunk := list(islice(rows, num_rows or CHUNK)):
        for place, id_, cells in chunk:
            check_row(place, cells, names)
            if id_ is not None and not is_text(id_):
                raise DataError(f"{place}: the id is not Unicode text: half of a surrogate pair")
        frame = pd.DataFrame([cells for _, _, cells in chunk], columns=list(names))
        with_id = next((place for place, id_, _ in chunk if id_ is not None), None)
        if has_ids is None:
            has_ids = with_id is not None
        if has_ids:
            frame.insert(0, "id", [id_ or "" for _, id_, _ in chunk])
        elif with_id is not None:
            raise DataError(f"{with_id}: has an id, the rows before it have none")
        yield frame
    if has_ids is None:
        raise DataError(f"{source}: no sentences to predict")


def _lines(source: str, stream: BinaryIO) -> Iterator[str]:
    """Yield the lines with their line ends, without empty lines at the end."""
    pending: list[str] = []  # empty lines, which may be at the end
    with reading(source):
        for line in text_lines(stream):
            pending.append(line)
            if line.strip("\r\n"):
                yield from pending
                pending.clear()


def _records(
    source: str, numbered: Iterable[tuple[int, Any]], tasks: Sequence[Task]
) -> Iterator[_Row]:
    names, id_name = _columns(tasks)
    for number, row in numbered:
        place = f"{source}:{number}"
        if isinstance(row, Fault):
            raise DataError(f"{place}: {row.message}")
        id_ = None
        if isinstance(row, dict):
            id_ = row.get(id_name)
            row = [row.get(name) for name in names]
        yield place, None if id_ is None else str(id_), row if isinstance(row, list) else [row]


def _table_rows(source: str, lines: Iterable[str], tasks: Sequence[Task]) -> Iterator[_Row]:
    names, id_name = _columns(tasks)
    rows = _cells(source, iter(lines), tasks)
    place, first = next(rows, (source, []))
    header = [name.strip() for name in first]
    has_ids = id_name in header
    for name in [*names, id_name] if has_ids else names:
        if header.count(name) != 1:
            what = "no column" if name not in header else "duplicate column"
            raise DataError(
                f"{place}: {what} {name} in the header ({printable(', '.join(header))})",
                fix=f"the first line must name the columns, that of the sentences {name}",
            )
    columns = [header.index(name) for name in names]
    for place, row in rows:
        if len(row) != len(header):
            raise DataError(f"{place}: {len(row)} cells, the header has {len(header)}")
        id_ = row[header.index(id_name)] if has_ids else None
        yield place, id_, [row[column] for column in columns]


def _cells(
    source: str, lines: Iterator[str], tasks: Sequence[Task]
) -> Iterator[tuple[str, list[str]]]:
    """Yield (place, cells) of the rows, the header first."""
    first = next(lines, "")
    delimiter = delimiter_of(first, _columns(tasks)[0], [task.delimiter for task in tasks])
    own = [task.quoting for task in tasks if task.delimiter == delimiter]
    for line, row in table_rows(chain([first], lines), delimiter, next(iter(own), "standard")):
        if isinstance(row, Fault):
            raise DataError(f"{source}:{line}: {row.message}", fix=FIXES[row.code])
        yield f"{source}:{line}", row
