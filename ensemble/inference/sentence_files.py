"""Files of sentences to label, read in chunks of rows: of any file, only a chunk is in memory.

Read are CSV with a header (comma, semicolon or tab), JSONL (objects with the tasks' sentence
columns, or lists) and lines of text; a sentence that is missing is an error that names its line.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from ensemble.inference.ensemble import check_row
from mlflow_setup.errors import DataError
from trainable.config.tasks import Task

CHUNK = 4096
"""Rows that are read, labelled and written before the next ones."""

_Row = tuple[str, str | None, list[Any]]
"""Place, id if there is one, and the cells that should be the tasks' sentences."""


def read_file(
    path: Path, tasks: Sequence[Task], num_rows: int | None = None
) -> Iterator[pd.DataFrame]:
    """The tasks' sentence columns of a CSV or JSONL file, after its ids if the file has them.

    Raises:
        DataError: not there, not UTF-8, no such columns, no rows, or a sentence is missing.
    """
    names, id_name = _columns(tasks)
    form = _json_rows if path.suffix == ".jsonl" else _table_rows
    try:
        with path.open("rb") as stream:
            rows = form(str(path), _lines(str(path), stream), names, id_name)
            yield from _frames(str(path), rows, names, num_rows)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


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
    rows = (
        (f"{source}:{number}", None, line.split("\t") if len(names) > 1 else [line])
        for number, line in enumerate(lines, start=1)
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
        sentences = [check_row(place, cells, names) for place, _, cells in chunk]
        frame = pd.DataFrame(sentences, columns=list(names))
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
    for number, data in enumerate(stream, start=1):
        try:
            line = data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise DataError(
                f"{source}:{number}: is not UTF-8 text", fix="save it as UTF-8"
            ) from None
        held.append(line)
        if line.strip("\r\n"):
            yield from held
            held.clear()


def _json_rows(
    source: str, lines: Iterable[str], names: Sequence[str], id_name: str
) -> Iterator[_Row]:
    for number, line in enumerate(lines, start=1):
        place = f"{source}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{place}: is not JSON") from None
        id_ = None
        if isinstance(row, dict):
            id_ = row.get(id_name)
            row = [row.get(name) for name in names]
        yield place, None if id_ is None else str(id_), row if isinstance(row, list) else [row]


def _table_rows(
    source: str, lines: Iterable[str], names: Sequence[str], id_name: str
) -> Iterator[_Row]:
    cells = _cells(source, iter(lines))
    place, first = next(cells, (source, []))
    header = [name.strip() for name in first]
    wanted = [*names, *({id_name} & set(header))]
    for name in wanted:
        if header.count(name) != 1:
            what = "no column" if name not in header else "twice the column"
            raise DataError(
                f"{place}: {what} {name} in the header", fix="a header line names the columns"
            )
    columns = [header.index(name) for name in wanted]
    for place, row in cells:
        if len(row) != len(header):
            raise DataError(f"{place}: {len(row)} cells, the header has {len(header)}")
        wanted_cells = [row[column] for column in columns]
        yield place, next(iter(wanted_cells[len(names) :]), None), wanted_cells[: len(names)]


def _cells(source: str, lines: Iterator[str]) -> Iterator[tuple[str, list[str]]]:
    """(where the row starts, its cells); the delimiter is the one that the first line has most."""
    first = next(lines, "")
    delimiter = max("\t,;", key=first.count)
    reader = csv.reader(_split(chain([first], lines)), delimiter=delimiter, strict=True)
    start = 1
    try:
        for row in reader:
            yield f"{source}:{start}", row or [""]
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{source}:{start}: {error}") from None


def _split(lines: Iterable[str]) -> Iterator[str]:
    """Lines that a carriage return alone may end, as spreadsheets of old write them."""
    for line in lines:
        if "\r" in line[:-2]:
            yield from io.StringIO(line, newline="")
        else:
            yield line
