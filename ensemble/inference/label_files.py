"""Writes files of labels: CSV with the sentences, JSON, and the course's submission format."""

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
"""The first characters of cells that a spreadsheet may run as a formula (CWE-1236)."""
_QUOTED = frozenset(',"\r\n')

Labelled = Iterable[tuple[pd.DataFrame, pd.DataFrame]]
"""Chunks of sentences, each with its predictions."""


def csv_parts(labelled: Labelled, for_spreadsheet: bool = False) -> Iterator[str]:
    """Yield CSV with labels, then ids and sentences, whose text is unchanged.

    Args:
        for_spreadsheet: whether to put an apostrophe before cells that a spreadsheet would run as a
            formula.
    """
    escape = _without_formula if for_spreadsheet else str
    for number, (sentences, predictions) in enumerate(labelled):
        texts = sentences.map(escape).rename(columns=escape)
        table = pd.concat([predictions.round(6), texts], axis=1)
        part = io.StringIO()
        header: list[tuple[Any, ...]] = [tuple(table)] if number == 0 else []
        for row in chain(header, table.itertuples(index=False, name=None)):
            part.write(",".join(map(_cell, row)) + "\n")
        yield part.getvalue()


def json_parts(task_names: Sequence[str], labelled: Labelled) -> Iterator[str]:
    """Yield one JSON object with a list of labels in the order of the sentences, with their ids if
    they have any."""
    tasks: dict[str, Any] = (
        {"task": task_names[0]} if len(task_names) == 1 else {"tasks": list(task_names)}
    )
    start = json.dumps({"schema_version": 1, **tasks})[:-1] + ', "predictions": ['
    for sentences, predictions in labelled:
        ids = sentences[sentences.columns.intersection(["id"])]
        rows = pd.concat([ids, predictions], axis=1).to_dict(orient="records")
        yield start + json.dumps(rows, allow_nan=False)[1:-1]
        start = ", "
    yield "]}\n"


def submission(ensemble: Ensemble, task_name: str, path: Path) -> str:
    """Return the course's submission, byte for byte, for a file in the task's own format.

    Raises:
        DataError: a row has a defect; every id of the file needs a label.
    """
    task = ensemble.tasks[task_name]
    examples = _read_test_file(task_name, task, path)
    labels = predicted_labels(task.kind, ensemble.outputs(task_name, examples.sentences))
    return submission_text(task, examples.ids, labels.tolist())


def submission_text(task: Task, ids: Sequence[str], labels: Sequence[float]) -> str:
    """Return a submission in the format of the course's code: every line ends with a blank."""
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


def _without_formula(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def _cell(value: object) -> str:
    """Return the cell quoted so that any CSV reader can read it; Python's own writer does not quote
    a lone CR."""
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if _QUOTED & set(text) else text
