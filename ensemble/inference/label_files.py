"""Files of labels: tables beside the sentences, JSON, and the course's submission."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.inference.ensemble import Ensemble
from mlflow_setup.errors import DataError
from mlflow_setup.text import printable
from trainable.config.tasks import Kind, Task
from trainable.data.defects import describe
from trainable.data.examples import Examples
from trainable.data.readers import read_file
from trainable.evaluation.metrics import predicted_labels

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a cell that a spreadsheet may run starts with (CWE-1236)."""

Labelled = Iterable[tuple[pd.DataFrame, pd.DataFrame]]
"""Chunks of sentences, each with its predictions."""


def csv_parts(labelled: Labelled) -> Iterator[str]:
    """Labels beside their sentences, as CSV that neither a spreadsheet nor a terminal runs."""
    for number, (sentences, predictions) in enumerate(labelled):
        texts = sentences.map(_harmless).rename(columns=_harmless)
        table = pd.concat([predictions.round(6), texts], axis=1)
        yield table.to_csv(index=False, header=number == 0, lineterminator="\n")


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
        value = int(label) if task.kind is Kind.CLASSIFICATION else float(label)
        lines.append(f"{id_} , {value} ")
    return "\n".join(lines) + "\n"


def _read_test_file(task_name: str, task: Task, path: Path) -> Examples:
    examples, defects = read_file(task_name, task, "test", path)
    errors = [defect for defect in defects if defect.severity == "error"]
    if errors:
        raise DataError(f"{path}: {len(errors)} error(s):\n  {describe(errors)}")
    return examples


def _harmless(cell: str) -> str:
    return f"'{printable(cell)}" if cell.startswith(_FORMULA) else printable(cell)
