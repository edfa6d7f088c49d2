"""Reading delimited text, JSON lines and Parquet row by row, with the line number of each row.

Training, `data check`, `predict` and `--add` all use this module, so that they read files in the
same way. A row that cannot be read becomes a `Fault`, and reading continues with the next line.
"""

import csv
import io
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

from mlflow_setup.errors import DataError
from mlflow_setup.text import first_line
from trainable.config.tasks import Quoting
from trainable.data.defects import FIXES

DELIMITERS = {"\t": "a tab", ",": "a comma", ";": "a semicolon", "|": "a bar"}

WRITE_AGAIN = "write the file again: it is damaged, or its name has the wrong suffix"


@dataclass(frozen=True)
class Fault:
    """A row that cannot be read: the code of the defect, and a message that follows the row's
    location."""

    code: str
    message: str


class UnreadableError(Exception):
    """The file cannot be read from `line` on (0: not at all)."""

    def __init__(self, line: int, message: str, fix: str = FIXES["D02"]) -> None:
        super().__init__(message)
        self.line, self.message, self.fix = line, message, fix


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Convert errors in the block to errors that name the file and line.

    Raises:
        DataError: instead of an OSError or `UnreadableError`.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnreadableError as error:
        location = f"{path}:{error.line}" if error.line else str(path)
        raise DataError(f"{location}: {error.message}", fix=error.fix) from None


def is_json_lines(path: Path) -> bool:
    """Whether the file has the suffix of JSON lines."""
    return path.suffix.lower() == ".jsonl"


def text_lines(stream: BinaryIO) -> Iterator[str]:
    """The lines with their ends (LF, CR LF, or CR alone as in old spreadsheets), without a
    byte-order mark.

    Raises:
        UnreadableError: UTF-16, a NUL byte, or not UTF-8.
    """
    for number, data in enumerate(stream, start=1):
        if number == 1 and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise UnreadableError(0, "is UTF-16, not UTF-8")
        if b"\0" in data:
            raise UnreadableError(number, "contains a NUL byte")
        try:
            line = data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            message = f"byte 0x{byte:02x} is not UTF-8 (Latin-1?)"
            raise UnreadableError(number, message) from None
        if "\r" in line[:-2]:
            yield from io.StringIO(line, newline="")
        else:
            yield line


def delimiter_of(header: str, needed: Iterable[str], usual: Sequence[str] = ()) -> str:
    """The first delimiter, of the `usual` and then the known ones, by which `header` has all needed
    columns; if there is none, the most frequent one in the header."""
    known, required = [*dict.fromkeys([*usual, *DELIMITERS])], set(needed)
    for delimiter in known:
        cells = next(csv.reader([header], delimiter=delimiter), [])
        if required <= {cell.strip() for cell in cells} and (len(cells) > 1 or len(required) == 1):
            return delimiter
    return max(known, key=header.count)


def form_of(
    lines: Sequence[str], delimiters: Iterable[str], quotings: Iterable[Quoting]
) -> tuple[str, Quoting]:
    """The delimiter and quoting by which most rows have as many cells as the first. Ties are broken
    by standard quoting, then by more cells, then by the order of the arguments."""

    def quality(form: tuple[str, Quoting]) -> tuple[float, bool, int]:
        sizes = [0 if isinstance(row, Fault) else len(row) for _, row in table_rows(lines, *form)]
        if not sizes or sizes[0] < 2:
            return 0.0, False, 0
        if len(sizes) > 100:
            sizes.pop()  # the last row may be incomplete
        share = round(sum(size == sizes[0] for size in sizes) / len(sizes), 3)
        return share, form[1] == "standard", sizes[0]

    return max(product(delimiters, quotings), key=quality)


def table_rows(
    lines: Iterable[str], delimiter: str, quoting: Quoting
) -> Iterator[tuple[int, list[str] | Fault]]:
    """(line on which the row begins, its cells or a `Fault`), including the header.

    Empty lines are skipped, except in a table with one column, where they are empty cells.

    A quoted cell may contain line breaks. But if every line of such a row has as many delimiters as
    the header, the row is a fault: two stray quotation marks have probably merged several rows. Two
    lines of two columns are accepted, because text contains commas as well.
    """
    source = _RewindableLines(lines)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    if quoting == "none":
        reader = csv.reader(source, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    num_columns = 0
    while True:
        start = source.begin_row()
        try:
            row = next(reader, None)
        except csv.Error as error:
            source.rewind()
            yield start, _fault(str(error))
            continue
        if row is None:
            return
        if not row and num_columns > 1:
            continue
        num_columns = num_columns or len(row)
        if _has_merged_rows(source.row_lines, delimiter, num_columns):
            last = start + len(source.row_lines) - 1
            source.rewind()
            message = f"a quotation mark opens here and closes in line {last}, with rows between"
            yield start, Fault("D14", message)
        else:
            yield start, row or [""]


def json_rows(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """(line, its JSON value or a `Fault`), without empty lines."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            yield number, Fault("D12", "is not JSON")


class _RewindableLines:
    """Lines for `csv.reader`, with the lines of the current row and a way to read them again."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.row_lines: list[str] = []
        self._source, self._returned, self._num_read = iter(lines), deque[str](), 0

    def __iter__(self) -> "_RewindableLines":
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self._source)
        self.row_lines.append(line)
        return line

    def begin_row(self) -> int:
        """Begin a row; return the number of its first line, from 1."""
        self._num_read += len(self.row_lines)
        self.row_lines = []
        return self._num_read + 1

    def rewind(self) -> None:
        """Continue reading after the first line of the row."""
        self._returned.extendleft(reversed(self.row_lines[1:]))
        del self.row_lines[1:]


def _has_merged_rows(lines: Sequence[str], delimiter: str, num_columns: int) -> bool:
    if len(lines) < 2 or num_columns < 2 or len(lines) + num_columns < 5:
        return False
    return all(line.count(delimiter) == num_columns - 1 for line in lines)


def _fault(reason: str) -> Fault:
    if "field larger" in reason:
        return Fault("D11", f"has a cell of more than {csv.field_size_limit():,} characters")
    if "unexpected end" in reason:
        return Fault("D03", "a quotation mark is open to the end of the file")
    return Fault("D03", f"quoting: {reason}")


def is_parquet(path: Path) -> bool:
    """Whether the file has the suffix of Parquet."""
    return path.suffix.lower() == ".parquet"


def parquet_rows(path: Path, with_names: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the row from 1, column -> value).

    Args:
        with_names: replace class numbers by names, if the file has names for them (Hugging Face's
            `ClassLabel`).

    Raises:
        UnreadableError: it is not a Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = class_names(file.schema_arrow.metadata) if with_names else {}
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, with_class_names(row, names)
    except (OSError, pa.ArrowException) as error:
        raise UnreadableError(0, f"cannot be read: {first_line(error)}", WRITE_AGAIN) from None


def class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Column -> names of its classes, for the columns with names in Hugging Face's metadata."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    names = {}
    for column, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else feature
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
            names[column] = list(map(str, inner.get("names", ())))
    return names


def with_class_names(row: dict[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The row with class numbers replaced by names; a number without a name becomes None."""
    for column, column_names in names.items():
        value = row.get(column)
        if isinstance(value, list):
            row[column] = [_name(number, column_names) for number in value]
        elif column in row:
            row[column] = _name(value, column_names)
    return row


def cell_text(value: Any, separator: str) -> str:
    """A value from JSON or Parquet as a cell of delimited text; the entries of a list are joined by
    `separator`."""
    if value is None:
        return ""
    if isinstance(value, list):
        return separator.join(cell_text(entry, separator) for entry in value)
    return str(int(value)) if isinstance(value, bool) else str(value)


def _name(value: Any, names: Sequence[str]) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return names[value] if is_number and 0 <= value < len(names) else None
