"""Delimited text, JSON lines and Parquet, row by row, each with the line that it begins on.

Training, `data check`, `predict` and `--add` read files by this module, so that a file is the same
to all of them. A row that cannot be read is a `Fault` in its place, and reading goes on
with the line below it. Only a row is in memory.
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

WRITE_ANEW = "write the file anew: it is damaged, or not of the kind that its name says"


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row: the code of a defect, and words that follow the row's place."""

    code: str
    message: str


class UnreadableError(Exception):
    """The file is no text from `line` on (0: as a whole)."""

    def __init__(self, line: int, message: str, fix: str = FIXES["D02"]) -> None:
        super().__init__(message)
        self.line, self.message, self.fix = line, message, fix


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Says of which file, and of which line of it, something is that cannot be read.

    Raises:
        DataError: in the place of an OSError or `UnreadableError`.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnreadableError as error:
        place = f"{path}:{error.line}" if error.line else str(path)
        raise DataError(f"{place}: {error.message}", fix=error.fix) from None


def is_json_lines(path: Path) -> bool:
    """Whether a file is JSON lines by the ending of its name; else it is delimited text."""
    return path.suffix.lower() == ".jsonl"


def text_lines(stream: BinaryIO) -> Iterator[str]:
    """The lines with their ends: LF, CR LF or CR alone, as spreadsheets of old write them. A
    byte-order mark is left out.

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
    """The delimiter by which `header` has all needed columns, the `usual` ones first; without such
    a one, that which it has most."""
    known, wanted = [*dict.fromkeys([*usual, *DELIMITERS])], set(needed)
    for delimiter in known:
        cells = next(csv.reader([header], delimiter=delimiter), [])
        if wanted <= {cell.strip() for cell in cells} and (len(cells) > 1 or len(wanted) == 1):
            return delimiter
    return max(known, key=header.count)


def form_of(
    lines: Sequence[str], delimiters: Iterable[str], quotings: Iterable[Quoting]
) -> tuple[str, Quoting]:
    """The delimiter and the quoting by which most rows have as many cells as the first; of equals
    with quoted cells, of the most cells, and then the first."""

    def worth(written: tuple[str, Quoting]) -> tuple[float, bool, int]:
        sizes = [
            0 if isinstance(row, Fault) else len(row) for _, row in table_rows(lines, *written)
        ]
        if not sizes or sizes[0] < 2:
            return 0.0, False, 0
        if len(sizes) > 100:
            sizes.pop()  # it may be cut where the lines end
        share = round(sum(size == sizes[0] for size in sizes) / len(sizes), 3)
        return share, written[1] == "standard", sizes[0]

    return max(product(delimiters, quotings), key=worth)


def table_rows(
    lines: Iterable[str], delimiter: str, quoting: Quoting
) -> Iterator[tuple[int, list[str] | Fault]]:
    """(line on which the row starts, its cells or what is wrong with it), the header first.

    Empty lines are passed over, unless the table has one column, whose cell they would be.

    A cell in quotation marks may run over lines. Where each of a row's lines has as many cells as
    the header once quotation marks are taken for letters, two stray marks have swallowed rows: that
    is a fault. Two lines of two columns are let through, for text has commas too.
    """
    feed = _Feed(lines)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    if quoting == "none":
        reader = csv.reader(feed, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    num_columns = 0
    while True:
        start = feed.begin_row()
        try:
            row = next(reader, None)
        except csv.Error as error:
            feed.give_back()
            yield start, _fault(str(error))
            continue
        if row is None:
            return
        if not row and num_columns > 1:
            continue
        num_columns = num_columns or len(row)
        if _has_swallowed(feed.taken, delimiter, num_columns):
            last = start + len(feed.taken) - 1
            feed.give_back()
            message = f"a quotation mark opens here and closes in line {last}: rows lie between"
            yield start, Fault("D14", message)
        else:
            yield start, row or [""]


def json_rows(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """(line, its JSON value or a `Fault`); empty lines are passed over."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            yield number, Fault("D12", "is not JSON")


class _Feed:
    """Lines for `csv.reader`, of which those of the row under way can be read once more."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.taken: list[str] = []
        self._source, self._back, self._line = iter(lines), deque[str](), 0

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._source)
        self.taken.append(line)
        return line

    def begin_row(self) -> int:
        """The number of the line that comes next, from 1."""
        self._line += len(self.taken)
        self.taken = []
        return self._line + 1

    def give_back(self) -> None:
        """Read on below the first line of the row."""
        self._back.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _has_swallowed(lines: Sequence[str], delimiter: str, num_columns: int) -> bool:
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
    """Whether a file is Parquet, by the ending of its name."""
    return path.suffix.lower() == ".parquet"


def parquet_rows(path: Path, with_names: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the row from 1, column -> value).

    Args:
        with_names: a class that the file has names for (Hugging Face's `ClassLabel`) by its name.

    Raises:
        UnreadableError: it is no Parquet file.
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
                    yield number, named(row, names)
    except (OSError, pa.ArrowException) as error:
        raise UnreadableError(0, f"cannot be read: {first_line(error)}", WRITE_ANEW) from None


def class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Column -> its classes' names, of those that Hugging Face's metadata of a table names."""
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


def named(row: dict[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A row with its classes by name; a number without a name is a label that is missing."""
    for column, of_column in names.items():
        value = row.get(column)
        if isinstance(value, list):
            row[column] = [_name(number, of_column) for number in value]
        elif column in row:
            row[column] = _name(value, of_column)
    return row


def cell_text(value: Any, separator: str) -> str:
    """A value of JSON or Parquet as a cell of delimited text would have it; of a list its entries
    with `separator` between them."""
    if value is None:
        return ""
    if isinstance(value, list):
        return separator.join(cell_text(entry, separator) for entry in value)
    return str(int(value)) if isinstance(value, bool) else str(value)


def _name(value: Any, names: Sequence[str]) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return names[value] if is_number and 0 <= value < len(names) else None
