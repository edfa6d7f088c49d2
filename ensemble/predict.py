"""A loaded bundle: sentences in, labels out. Each member's encoder runs once a request.

Legend: N rows, C classes.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble.bundle import Bundle
from ensemble.combine import combine
from mlflow_setup.errors import ConfigError, DataError
from trainable.defects import describe
from trainable.metrics import overall, predicted_labels, task_metric
from trainable.reading import Examples, read_split
from trainable.tasks import Kind, Split, Task

Sentences = str | Sequence[str] | Sequence[Sequence[str]] | pd.DataFrame


class Ensemble:
    """A verified bundle that predicts. Members are loaded when a task first needs them."""

    def __init__(self, bundle: Bundle, batch_size: int = 64, precision: str = "fp32") -> None:
        self.bundle, self.batch_size, self.precision = bundle, batch_size, precision
        self._members: dict[str, tuple[Any, Any]] = {}  # member -> (model, tokenizer)

    @classmethod
    def load(cls, folder: str | Path, batch_size: int = 64, precision: str = "fp32") -> "Ensemble":
        """Verify and load a bundle.

        Args:
            batch_size: examples a forward pass.
            precision: fp32, bf16, or auto (bf16 where the device multiplies it in hardware).

        Raises:
            IntegrityError: the bundle is not whole or was changed.
        """
        return cls(Bundle.load(Path(folder)), batch_size, precision)

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks that it answers, by name."""
        return {name: entry.task for name, entry in self.bundle.contents.tasks.items()}

    def predict(self, sentences: Sentences, task: str | None = None) -> pd.DataFrame:
        """Label sentences: one row each, in order.

        Args:
            sentences: a sentence, or a sequence of them; for pair tasks a sequence of pairs; or a
                data frame with the task's sentence columns.
            task: may be left out where only one task takes such sentences.

        Returns:
            `label` (class, 0/1 or score), and for classes `probability_0`.. , for paraphrase
            `probability` (of 1).

        Raises:
            ConfigError: no such task, or several that fit.
            DataError: a sentence is missing, empty, or not text.
        """
        name = self._task_for(sentences, task)
        sides = _sides(sentences, self.tasks[name])
        return self._frame(name, self.outputs(name, sides))

    def outputs(self, task: str, sides: tuple[tuple[str, ...], ...]) -> NDArray[np.float64]:
        """Combined outputs of N examples, given a tuple of N sentences for each side."""
        from trainable.evaluate import predict

        shares = self.bundle.contents.tasks[task].members
        raw = []
        for share in shares:
            model, tokenizer = self._member(share.member)
            raw.append(
                predict(
                    model,
                    task,
                    sides,
                    tokenizer,
                    batch_size=self.batch_size,
                    precision=self.precision,
                )
            )
        return combine(self.tasks[task], raw, [share.weight for share in shares])

    def evaluate(
        self, data_dir: Path, split: Split = "dev", skip_bad_rows: bool = False
    ) -> dict[str, float]:
        """The metric of each task whose file for `split` is in `data_dir`, and `overall`.

        Raises:
            DataError: no labelled file for any task, or rows with defects.
        """
        scores: dict[str, float] = {}
        for name, task in self.tasks.items():
            if split not in task.files or not (data_dir / task.files[split]).exists():
                continue
            examples = self._sound(name, split, data_dir, skip_bad_rows)
            if examples.labels is None:
                continue
            outputs = self.outputs(name, examples.sentences)
            scores[name], _ = task_metric(task, outputs, examples.labels)
        if not scores:
            raise DataError(f"{data_dir}: no labelled {split} file of {', '.join(self.tasks)}")
        return {**scores, "overall": overall(scores, self.tasks)}

    def _sound(self, name: str, split: Split, data_dir: Path, skip_bad_rows: bool) -> Examples:
        examples, defects = read_split(name, self.tasks[name], split, data_dir)
        errors = [defect for defect in defects if defect.severity == "error"]
        fatal = [defect for defect in errors if not defect.is_of_row]
        if fatal or (errors and not skip_bad_rows):
            shown = fatal or errors
            raise DataError(
                f"{data_dir}: {len(shown)} error(s) in the data:\n  {describe(shown)}",
                fix="correct the rows, or leave them out: --on-bad-rows skip",
            )
        return examples

    def _frame(self, name: str, outputs: NDArray[np.float64]) -> pd.DataFrame:
        kind = self.tasks[name].kind
        labels = predicted_labels(kind, outputs)
        columns: dict[str, Any] = {
            "label": labels if kind is Kind.SIMILARITY else labels.astype(int)
        }
        if kind is Kind.CLASSIFICATION:
            columns |= {f"probability_{c}": outputs[:, c] for c in range(outputs.shape[1])}
        elif kind is Kind.PARAPHRASE:
            columns["probability"] = 1 / (1 + np.exp(-outputs))
        return pd.DataFrame(columns)

    def _member(self, name: str) -> tuple[Any, Any]:
        from trainable.model import choose_device, load_member
        from trainable.tokens import load_tokenizer

        if name not in self._members:
            encoder_dir = self.bundle.encoder_dir(name)
            model = load_member(
                self.bundle.weights_dir(name), encoder_dir, self.bundle.config(name)
            )
            self._members[name] = model.to(choose_device("auto")), load_tokenizer(encoder_dir)
        return self._members[name]

    def _task_for(self, sentences: Sentences, task: str | None) -> str:
        if task is not None:
            if task not in self.tasks:
                raise ConfigError(f"no task {task!r}; this bundle has {', '.join(self.tasks)}")
            return task
        fitting = [name for name, known in self.tasks.items() if _fits(sentences, known)]
        if len(fitting) != 1:
            raise ConfigError(
                f"{len(fitting)} tasks of {', '.join(self.tasks)} take such sentences",
                fix="name one: task=...",
            )
        return fitting[0]


def read_test_file(ensemble: Ensemble, task: str, path: Path) -> Examples:
    """An unlabelled file in the task's own format.

    Raises:
        DataError: a row has a defect: a submission needs every id.
    """
    from trainable.reading import read_file

    examples, defects = read_file(task, ensemble.tasks[task], "test", path)
    errors = [defect for defect in defects if defect.severity == "error"]
    if errors:
        raise DataError(f"{path}: {len(errors)} error(s):\n  {describe(errors)}")
    return examples


def submission(task: Task, ids: Sequence[str], labels: Sequence[float]) -> str:
    """The course's submission file, byte for byte as its own writer prints it."""
    header = task.submission_header or f"Predicted_{task.columns.label}"
    lines = [f"id \t{header} "]
    for id_, label in zip(ids, labels, strict=True):
        value = int(label) if task.kind is Kind.CLASSIFICATION else float(label)
        lines.append(f"{id_} , {value} ")
    return "\n".join(lines) + "\n"


def _fits(sentences: Sentences, task: Task) -> bool:
    if isinstance(sentences, pd.DataFrame):
        return set(task.columns.sentences) <= set(sentences.columns)
    first = sentences if isinstance(sentences, str) else next(iter(sentences), "")
    return isinstance(first, str) != task.kind.is_pair


def _sides(sentences: Sentences, task: Task) -> tuple[tuple[str, ...], ...]:
    """A tuple of N sentences for each side; every one of them proved to be text."""
    names, rows = task.columns.sentences, []
    if isinstance(sentences, pd.DataFrame):
        missing = [name for name in names if name not in sentences.columns]
        if missing:
            raise DataError(f"no column {', '.join(missing)} for the task's sentences")
        rows = list(sentences[list(names)].itertuples(index=False, name=None))
    elif isinstance(sentences, str):
        rows = [(sentences,)]
    else:
        rows = [(row,) if isinstance(row, str) else tuple(row) for row in sentences]
    if not rows:
        raise DataError("no sentences to predict")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise DataError(f"row {number}: {len(row)} sentence(s), the task takes {len(names)}")
        for name, cell in zip(names, row, strict=True):
            if not isinstance(cell, str) or not cell.strip():
                raise DataError(f"row {number}: {name} is empty or not text")
    return tuple(tuple(row[side].strip() for row in rows) for side in range(len(names)))


def rows_from_mappings(rows: Sequence[Mapping[str, Any]], task: Task) -> pd.DataFrame:
    """JSON objects or CSV rows -> a data frame with the task's sentence columns."""
    names = task.columns.sentences
    return pd.DataFrame([{name: row.get(name) for name in names} for row in rows])
