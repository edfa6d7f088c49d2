"""Reading and validating data files. One pass finds all defects, with file, line and column.

Columns are found by name, in the header of delimited text or the fields of JSON lines and Parquet.
The paper's `.csv` files are tab-separated. Entailment pairs are JSON lists, one per line.
"""

import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_setup.text import is_text, printable
from trainable.config.tasks import MAX_LABELS, Kind, Output, Split, Task
from trainable.data.defects import Defect, Severity
from trainable.data.examples import Examples
from trainable.data.labels import label_value
from trainable.data.tables import (
    DELIMITERS,
    Fault,
    UnreadableError,
    cell_text,
    is_json_lines,
    is_parquet,
    json_rows,
    parquet_rows,
    table_rows,
    text_lines,
)

_FORMULA = ("=", "+", "-", "@")


def read_split(
    task_name: str, task: Task, split: Split, data_dir: Path
) -> tuple[Examples, list[Defect]]:
    """The valid rows of a task's file for `split`, and the defects of the others.

    Labels are None if a test file has no label column.
    """
    return read_file(task_name, task, split, data_dir / task.files[split])


def read_file(
    task_name: str, task: Task, split: Split, path: Path
) -> tuple[Examples, list[Defect]]:
    """`read_split` for a file given by its path."""
    reader = _Reader(task_name, task, split, path)
    if is_parquet(path):
        reader.read_records(parquet_rows(path, with_names=bool(task.labels)))
    elif lines := reader.lines():
        if not is_json_lines(path):
            reader.read_table(lines)
        elif task.kind is Kind.ENTAILMENT:
            reader.read_json_lists(lines)
        else:
            reader.read_records(json_rows(lines))
    return reader.examples(), reader.defects


class _Reader:
    """Reads one file in one pass, into the columns of valid rows and a list of defects."""

    def __init__(self, task_name: str, task: Task, split: Split, path: Path) -> None:
        self.task_name, self.task, self.split, self.path = task_name, task, split, path
        self.defects: list[Defect] = []
        self.ids: dict[str, float] = {}  # id -> label, in the order of the file
        num_sides = 2 if task.kind.is_pair else 1
        self.sides: list[list[str]] = [[] for _ in range(num_sides)]
        self.contradictions: list[str] = []
        self.has_labels = task.kind is not Kind.ENTAILMENT
        self.bad_labels: dict[str, None] = {}

    def examples(self) -> Examples:
        is_entailment = self.task.kind is Kind.ENTAILMENT
        return Examples(
            self.task_name,
            self.task,
            self.split,
            tuple(self.ids),
            tuple(tuple(side) for side in self.sides),
            np.array(list(self.ids.values()), np.float64) if self.has_labels else None,
            tuple(self.contradictions) if is_entailment else None,
        )

    def lines(self) -> list[str]:
        """The file's lines, ending in `\\n`; none if it is not text."""
        try:
            data = self.path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", error)
            self._error("D01", 0, "", "", f"cannot be read: {reason}")
            return []
        if data.startswith(b"\xef\xbb\xbf"):
            self._warn("D21", 1, "", "", "starts with a byte-order mark")
        try:
            lines = list(text_lines(io.BytesIO(data)))
        except UnreadableError as error:
            self._error("D02", error.line, "", "", error.message)
            return []
        if not any(line.strip() for line in lines):
            self._error("D13", 0, "", "", "is empty")
            return []
        if b"\r" in data:
            ends = "CR LF" if b"\r\n" in data else "CR alone"
            self._warn("D24", 0, "", "", f"lines end in {ends}")
            lines = [line.replace("\r\n", "\n").replace("\r", "\n") for line in lines]
        return lines

    def read_table(self, lines: list[str]) -> None:
        rows = table_rows(lines, self.task.delimiter, self.task.quoting)
        line, header = next(rows, (0, []))
        if isinstance(header, Fault):
            self._error(header.code, line, "", "", header.message)
            return
        indices = self._column_indices(header)
        if indices is None:
            return
        id_index, sentence_indices, label_index = indices
        self.has_labels = label_index is not None
        num_rows = 0
        for line, row in rows:
            num_rows += 1
            if isinstance(row, Fault):
                self._error(row.code, line, "", "", row.message)
                continue
            if len(row) != len(header):
                message = f"{len(row)} cells, the header has {len(header)}"
                self._error("D05", line, "", "", message)
                continue
            cells = [row[index] for index in sentence_indices]
            label = None if label_index is None else row[label_index].strip()
            self._add(line, row[id_index].strip(), cells, label)
        if not num_rows and not any(defect.severity == "error" for defect in self.defects):
            self._error("D13", 0, "", "", "has a header and no rows")
        self._merge_undeclared_names()

    def read_records(self, rows: Iterable[tuple[int, Any]]) -> None:
        """Read objects with a field per column; a missing field is empty."""
        columns, separator, num_rows = self.task.columns, self.task.label_separator, 0
        try:
            for line, row in rows:
                if isinstance(row, Fault) or not isinstance(row, dict):
                    problem = row.message if isinstance(row, Fault) else "is not a JSON object"
                    self._error("D16", line, "", "", problem)
                    continue
                num_rows += 1
                if num_rows == 1:
                    indices = self._column_indices(list(row))
                    if indices is None:
                        return
                    self.has_labels = indices[2] is not None
                id_, *cells, label = (
                    cell_text(row.get(name), separator)
                    for name in (columns.id, *columns.sentences, columns.label)
                )
                if not all(map(is_text, (id_, *cells))):
                    self._error("D12", line, "", "", "has half of a surrogate pair")
                    continue
                self._add(line, id_.strip(), cells, label.strip() if self.has_labels else None)
        except UnreadableError as error:
            self._error("D01", error.line, "", "", error.message)
            return
        if not num_rows and not self.defects:
            self._error("D13", 0, "", "", "has no rows")
        self._merge_undeclared_names()

    def read_json_lists(self, lines: list[str]) -> None:
        for line, row in json_rows(lines):
            content = lines[line - 1]
            if isinstance(row, Fault):
                self._error(row.code, line, "", content, row.message)
            elif not isinstance(row, list) or len(row) not in (2, 3):
                self._error("D12", line, "", content, "is not a list of 2 or 3 sentences")
            elif not all(isinstance(cell, str) for cell in row):
                self._error("D12", line, "", content, "has an entry that is not text")
            elif not all(is_text(cell) for cell in row):
                self._error("D12", line, "", content, "has half of a surrogate pair")
            else:
                third = row[2].strip() if len(row) == 3 else ""
                self._add(line, f"line-{line}", row[:2], None, third)

    def _column_indices(self, header: list[str]) -> tuple[int, list[int], int | None] | None:
        """The indices of the columns of IDs, sentences and labels (None: not needed or missing in
        a test file); None if the header has defects."""
        columns = self.task.columns
        names = [name.strip() for name in header]
        needed = [columns.id, *columns.sentences]
        has_label = columns.label in names
        if self.has_labels and (has_label or self.split != "test"):
            needed.append(columns.label)
        missing = [name for name in needed if name not in names]
        duplicates = [name for name in needed if names.count(name) > 1]
        for name in duplicates:
            self._error("D04", 1, name, "", f"column {name} occurs twice in the header")
        if missing:
            hint = "".join(
                f"; the delimiter looks like {words}"
                for delimiter, words in DELIMITERS.items()
                if len(header) == 1 and delimiter in header[0]
            )
            header_text = ", ".join(name for name in names if name)[:200]
            message = f"no column {', '.join(missing)} in the header ({header_text}){hint}"
            self._error("D04", 1, missing[0], "", message)
        if missing or duplicates:
            return None
        for name in names:
            if name and name not in (*needed, columns.label):
                self._warn("D20", 1, name, name, f"column {name} is not used")
        label_index = names.index(columns.label) if columns.label in needed else None
        return names.index(columns.id), [names.index(n) for n in columns.sentences], label_index

    def _add(
        self, line: int, id_: str, cells: list[str], label: str | None, contradiction: str = ""
    ) -> None:
        """Add the row if it is valid, else its defects."""
        columns = self.task.columns
        before = len(self.defects)
        value = math.nan
        if not id_:
            self._error("D06", line, columns.id, "", f"column {columns.id} is empty")
        for name, cell in zip(columns.sentences, cells, strict=True):
            if not cell.strip():
                self._error("D09", line, name, "", f"column {name} is empty")
        if label is not None:
            value = self._label(line, label)
        if id_ in self.ids and id_:
            same = self.ids[id_] == value or label is None
            message = f"id {id_} occurs twice" + ("" if same else ", with another label")
            self._error("D10", line, columns.id, id_, message)
        if len(self.defects) > before:
            return
        for name, cell in zip(columns.sentences, cells, strict=True):
            if "\n" in cell:
                last = line + cell.count("\n")
                self._warn("D25", line, name, cell, f"column {name} extends to line {last}")
            if cell.startswith(_FORMULA):
                message = f"column {name} starts like a formula: {cell[:40]!r}"
                self._warn("D22", line, name, cell, message)
        self.ids[id_] = value
        for side, cell in zip(self.sides, cells, strict=True):
            side.append(cell.strip())
        self.contradictions.append(contradiction)

    def _label(self, line: int, text: str) -> float:
        name, task = self.task.columns.label, self.task
        if not text and task.kind.output is not Output.LABELS:
            self._error("D07", line, name, "", f"column {name} is empty")
            return math.nan
        value, problem = label_value(task, text)
        if problem:
            self.bad_labels.setdefault(text, None)
            self._error("D08", line, name, text, f"column {name} is {text[:40]!r}, {problem}")
        return value

    def _merge_undeclared_names(self) -> None:
        """If all labels are names and the task declares none, report one defect instead of one per
        row."""
        task, names = self.task, list(self.bad_labels)
        if self.ids or task.labels or not task.kind.may_name_labels or not names:
            return
        self.defects = [defect for defect in self.defects if defect.code != "D08"]
        shown = ", ".join(sorted(names)[:MAX_LABELS])
        more = f", {len(names) - MAX_LABELS} more" if len(names) > MAX_LABELS else ""
        message = f"column {task.columns.label} has names, but the task declares none: "
        self._error("D15", 0, task.columns.label, "", f"{message}{printable(shown)}{more}")

    def _error(self, code: str, line: int, column: str, value: str, message: str) -> None:
        self._defect("error", code, line, column, value, message)

    def _warn(self, code: str, line: int, column: str, value: str, message: str) -> None:
        self._defect("warning", code, line, column, value, message)

    def _defect(
        self, severity: Severity, code: str, line: int, column: str, value: str, message: str
    ) -> None:
        shown = printable(value[:200])
        self.defects.append(Defect(code, severity, self.path.name, line, column, shown, message))
