"""Files of sentences to label, and files of labels.

Read are CSV with a header (comma, semicolon or tab), JSONL (objects with the task's sentence
columns, or lists) and lines of text; a sentence that is missing is an error that names its line.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.predict import Ensemble, check_row
from mlflow_setup.errors import DataError
from trainable.defects import describe, printable
from trainable.metrics import predicted_labels
from trainable.reading import Examples, read_file
from trainable.tasks import Kind, Task

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a cell that a spreadsheet may run starts with (CWE-1236)."""


def read_sentences(path: Path, task: Task) -> pd.DataFrame:
    """The task's sentence columns of a CSV or JSONL file, after its ids if the file has them.

    Raises:
        DataError: not there, not UTF-8, no such columns, no rows, or a sentence is missing.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    rows = _json_rows if path.suffix == ".jsonl" else _table_rows
    return _frame(str(path), rows(str(path), _decode(str(path), data), task), task)


def read_stream(source: str, data: bytes, task: Task) -> pd.DataFrame:
    """One example a line, read from what `source` names, for instance standard input.

    Raises:
        DataError: as `read_sentences`.
    """
    return read_lines(source, _decode(source, data).split("\n"), task)


def read_lines(source: str, lines: Sequence[str], task: Task) -> pd.DataFrame:
    """One example a line; the two sentences of a pair stand with a tab between them.

    Raises:
        DataError: as `read_sentences`.
    """
    rows = (
        (f"{source}:{number}", None, line.split("\t") if task.kind.is_pair else [line])
        for number, line in enumerate(lines, start=1)
    )
    return _frame(source, rows, task)


def submission(ensemble: Ensemble, task_name: str, path: Path) -> str:
    """The course's submission for a file in the task's own format, byte for byte.

    Raises:
        DataError: a row has a defect: every id of the file needs a label.
    """
    task = ensemble.tasks[task_name]
    examples = _read_test_file(task_name, task, path)
    labels = predicted_labels(task.kind, ensemble.outputs(task_name, examples.sentences))
    return submission_text(task, examples.ids, labels.tolist())


def submission_text(task: Task, ids: Sequence[str], labels: Sequence[float]) -> str:
    """A submission as the course's own writer prints it: every line ends in a blank."""
    header = task.submission_header or f"Predicted_{task.columns.label}"
    lines = [f"id \t {header} "]
    for id_, label in zip(ids, labels, strict=True):
        value = int(label) if task.kind is Kind.CLASSIFICATION else float(label)
        lines.append(f"{id_} , {value} ")
    return "\n".join(lines) + "\n"


def to_csv(sentences: pd.DataFrame, predictions: pd.DataFrame) -> str:
    """Labels beside their sentences, as CSV that neither a spreadsheet nor a terminal runs."""
    texts = sentences.map(_harmless).rename(columns=_harmless)
    table = pd.concat([predictions.round(6), texts], axis=1)
    return table.to_csv(index=False, lineterminator="\n")


def to_json(task_name: str, sentences: pd.DataFrame, predictions: pd.DataFrame) -> str:
    """One JSON object with a list of labels in the order of the sentences, ids where known."""
    ids = sentences[sentences.columns.intersection(["id"])]
    rows = pd.concat([ids, predictions], axis=1).to_dict(orient="records")
    content = {"schema_version": 1, "task": task_name, "predictions": rows}
    return json.dumps(content, allow_nan=False) + "\n"


_Row = tuple[str, str | None, list[Any]]
"""Place, id if there is one, and the cells that should be the task's sentences."""


def _frame(source: str, rows: Iterable[_Row], task: Task) -> pd.DataFrame:
    names = task.columns.sentences
    ids, sentences = [], []
    for place, id_, cells in rows:
        sentences.append(check_row(place, cells, names))
        ids.append(id_)
    if not sentences:
        raise DataError(f"{source}: no sentences to predict")
    frame = pd.DataFrame(sentences, columns=list(names))
    if any(id_ is not None for id_ in ids):
        frame.insert(0, "id", [id_ or "" for id_ in ids])
    return frame


def _decode(source: str, data: bytes) -> str:
    """The text without the line ends after its last line."""
    try:
        return data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{source}:{line}: is not UTF-8 text", fix="save it as UTF-8") from None


def _json_rows(source: str, text: str, task: Task) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n") if text else [], start=1):
        place = f"{source}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{place}: is not JSON") from None
        id_ = None
        if isinstance(row, dict):
            id_ = row.get(task.columns.id)
            row = [row.get(name) for name in task.columns.sentences]
        yield place, None if id_ is None else str(id_), row if isinstance(row, list) else [row]


def _table_rows(source: str, text: str, task: Task) -> Iterator[_Row]:
    cells = _cells(source, text)
    place, header = next(cells, (source, []))
    names = [name.strip() for name in header]
    wanted = [*task.columns.sentences, *({task.columns.id} & set(names))]
    for name in wanted:
        if names.count(name) != 1:
            what = "no column" if name not in names else "twice the column"
            raise DataError(
                f"{place}: {what} {name} in the header", fix="a header line names the columns"
            )
    columns = [names.index(name) for name in wanted]
    num_sides = len(task.columns.sentences)
    for place, row in cells:
        if len(row) != len(names):
            raise DataError(f"{place}: {len(row)} cells, the header has {len(names)}")
        found = [row[column] for column in columns]
        yield place, next(iter(found[num_sides:]), None), found[:num_sides]


def _cells(source: str, text: str) -> Iterator[tuple[str, list[str]]]:
    """(where the row starts, its cells); the delimiter is the one that the first line has most."""
    delimiter = max("\t,;", key=text.split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for row in reader:
            yield f"{source}:{start}", row or [""]
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{source}:{start}: {error}") from None


def _read_test_file(task_name: str, task: Task, path: Path) -> Examples:
    examples, defects = read_file(task_name, task, "test", path)
    errors = [defect for defect in defects if defect.severity == "error"]
    if errors:
        raise DataError(f"{path}: {len(errors)} error(s):\n  {describe(errors)}")
    return examples


def _harmless(cell: str) -> str:
    return f"'{printable(cell)}" if cell.startswith(_FORMULA) else printable(cell)
