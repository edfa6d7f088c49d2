"""Files of labels: tables beside the sentences, JSON, and the course's submission."""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.inference.ensemble import Ensemble
from mlflow_setup.errors import DataError
from trainable.config.tasks import Output, Task
from trainable.data.defects import describe
from trainable.data.examples import Examples
from trainable.data.readers import read_file
from trainable.evaluation.metrics import predicted_labels

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a cell that a spreadsheet may run starts with (CWE-1236)."""
_QUOTED = frozenset(',"\r\n')

Labelled = Iterable[tuple[pd.DataFrame, pd.DataFrame]]
"""Chunks of sentences, each with its predictions."""


def csv_parts(labelled: Labelled, for_spreadsheet: bool = False) -> Iterator[str]:
    """Labels beside their ids and sentences, as CSV; text is as it came, character for character.

    Args:
        for_spreadsheet: put an apostrophe before cells that a spreadsheet would run as a formula.
    """
    guard = _guarded if for_spreadsheet else str
    for number, (sentences, predictions) in enumerate(labelled):
        texts = sentences.map(guard).rename(columns=guard)
        table = pd.concat([predictions.round(6), texts], axis=1)
        part = io.StringIO()
        header: list[tuple[Any, ...]] = [tuple(table)] if number == 0 else []
        for row in chain(header, table.itertuples(index=False, name=None)):
            part.write(",".join(map(_cell, row)) + "\n")
        yield part.getvalue()


def json_parts(task_names: Sequence[str], labelled: Labelled) -> Iterator[str]:
    """One JSON object with a list of labels in the order of the sentences, ids where known."""
    what: dict[str, Any] = (
        {"task": task_names[0]} if len(task_names) == 1 else {"tasks": list(task_names)}
    )
    start = json.dumps({"schema_version": 1, **what})[:-1] + ', "predictions": ['
    for sentences, predictions in labelled:
        ids = sentences[sentences.columns.intersection(["id"])]
        rows = pd.concat([ids, predictions], axis=1).to_dict(orient="records")
        yield start + json.dumps(rows, allow_nan=False)[1:-1]
        start = ", "
    yield "]}\n"


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
        value = task.show(label)
        if task.kind.output is Output.BINARY and not task.labels:
            value = float(label)
        lines.append(f"{id_} , {value} ")
    return "\n".join(lines) + "\n"


def _read_test_file(task_name: str, task: Task, path: Path) -> Examples:
    examples, defects = read_file(task_name, task, "test", path)
    errors = [defect for defect in defects if defect.severity == "error"]
    if errors:
        raise DataError(f"{path}: {len(errors)} error(s):\n  {describe(errors)}")
    return examples


def _guarded(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def _cell(value: object) -> str:
    """The cell so quoted that every reader of CSV reads it back; Python's own writer leaves a lone
    CR unquoted."""
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if _QUOTED & set(text) else text
