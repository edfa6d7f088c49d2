"""Files of sentences to label, read in chunks of rows: of any file, only a chunk is in memory.

Read are delimited text with a header, JSONL (objects with the tasks' sentence columns, or lists),
Parquet and lines of text, by `trainable.data.tables` as training reads them. Ids and sentences
leave as they came; a sentence that is missing is an error that names its line.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from ensemble.inference.ensemble import check_row
from mlflow_setup.errors import DataError
from mlflow_setup.text import is_text
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
"""Rows that are read, labelled and written before the next ones."""

_Row = tuple[str, str | None, list[Any]]
"""Place, id if there is one, and the cells that should be the tasks' sentences."""


def read_file(
    path: Path, tasks: Sequence[Task], num_rows: int | None = None
) -> Iterator[pd.DataFrame]:
    """The tasks' sentence columns of a delimited, JSONL or Parquet file, after its ids if it has
    them.

    The delimiter is one of the tasks' own, or a tab, comma, semicolon or bar, as the header tells.

    Raises:
        DataError: not there, not UTF-8, no such columns, no rows, or a sentence is missing.
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
    """How many rows a file has, without reading them: a Parquet file's own count, else its lines,
    which are a few more where cells run over lines. None: it cannot be read, or only once."""
    if not path.is_file():  # what a pipe has given is gone
        return None
    try:
        if is_parquet(path):
            import pyarrow.parquet as pq

            return int(pq.read_metadata(path).num_rows)
        with path.open("rb") as stream:
            num_lines = sum(
                block.count(b"\n") for block in iter(partial(stream.read, 1 << 20), b"")
            )
    except (OSError, ValueError):  # Arrow's errors are of these
        return None
    return max(1, num_lines - (not is_json_lines(path)))


def read_stream(
    source: str, stream: BinaryIO, tasks: Sequence[Task], num_rows: int | None = None
) -> Iterator[pd.DataFrame]:
    """One example a line of what `source` names, for instance standard input.

    Raises:
        DataError: as `read_file`.
    """
    return read_lines(source, _lines(source, stream), tasks, num_rows)


def read_lines(
    source: str, lines: Iterable[str], tasks: Sequence[Task], num_rows: int | None = None
) -> Iterator[pd.DataFrame]:
    """One example a line; the two sentences of a pair stand with a tab between them.

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
    """The sentence columns of all tasks, each once, and the column of ids."""
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
    """The lines with their ends; those without a character after the last one are left out."""
    held: list[str] = []  # of nothing but a line end
    with reading(source):
        for line in text_lines(stream):
            held.append(line)
            if line.strip("\r\n"):
                yield from held
                held.clear()


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
    wanted = [*names, *({id_name} & set(header))]
    for name in wanted:
        if header.count(name) != 1:
            what = "no column" if name not in header else "twice the column"
            raise DataError(
                f"{place}: {what} {name} in the header", fix="a header line names the columns"
            )
    columns = [header.index(name) for name in wanted]
    for place, row in rows:
        if len(row) != len(header):
            raise DataError(f"{place}: {len(row)} cells, the header has {len(header)}")
        wanted_cells = [row[column] for column in columns]
        yield place, next(iter(wanted_cells[len(names) :]), None), wanted_cells[: len(names)]


def _cells(
    source: str, lines: Iterator[str], tasks: Sequence[Task]
) -> Iterator[tuple[str, list[str]]]:
    """(where the row starts, its cells), the header first."""
    first = next(lines, "")
    delimiter = delimiter_of(first, _columns(tasks)[0], [task.delimiter for task in tasks])
    own = [task.quoting for task in tasks if task.delimiter == delimiter]
    for line, row in table_rows(chain([first], lines), delimiter, next(iter(own), "standard")):
        if isinstance(row, Fault):
            raise DataError(f"{source}:{line}: {row.message}", fix=FIXES[row.code])
        yield f"{source}:{line}", row
