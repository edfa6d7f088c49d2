"""A loaded bundle that labels sentences. Each distinct encoder runs once per sentence.

Legend: N rows, C classes.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from ensemble.bundle.format import Bundle
from ensemble.inference.describe import as_html, as_text, tasks_table, title_of
from ensemble.inference.evaluation import Evaluation, evaluate
from mlflow_setup.errors import ConfigError, DataError
from mlflow_setup.text import is_text
from trainable.config.tasks import Output, Split, Task
from trainable.evaluation.metrics import predicted_labels

if TYPE_CHECKING:
    from ensemble.inference.members import Members

Sides = tuple[tuple[str, ...], ...]
Sentences = str | Sequence[str] | Sequence[Sequence[str]] | pd.DataFrame
_CHUNK = 16_384
"""Rows that are embedded together, which limits the memory used."""
PRECISIONS = ("fp32", "bf16", "auto")


class Ensemble:
    """A verified bundle that predicts. Members are loaded when a task first needs them."""

    def __init__(self, bundle: Bundle, batch_size: int = 64, precision: str = "fp32") -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, must be at least 1")
        if precision not in PRECISIONS:
            raise ConfigError(f"precision is {precision!r}, must be one of {', '.join(PRECISIONS)}")
        self.bundle, self.batch_size, self.precision = bundle, batch_size, precision

    @classmethod
    def load(cls, folder: str | Path, batch_size: int = 64, precision: str = "fp32") -> "Ensemble":
        """Verify and load a bundle.

        Args:
            batch_size: examples per forward pass.
            precision: fp32, bf16, or auto (bf16 if the device has hardware support for it).

        Raises:
            ConfigError: there is no such precision, or the batch size is below 1.
            IntegrityError: the bundle is not intact.
        """
        return cls(Bundle.load(Path(folder)), batch_size, precision)

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The bundle's tasks, by name."""
        return {name: entry.task for name, entry in self.bundle.contents.tasks.items()}

    def predict(self, sentences: Sentences, task: str | None = None) -> pd.DataFrame:
        """Label sentences: one row each, in order.

        Args:
            sentences: a sentence, or a sequence of them; for pair tasks a sequence of pairs; or a
                data frame with the task's sentence columns.
            task: its name; None: the only task that takes such sentences.

        Returns:
            `label`: a class, 0 or 1 (or its name, if the task declares names), the names of a
            multi-label task's labels, or a score. For class and multi-label tasks also
            `probability_<label>` of each label; for binary tasks `probability` (of 1).

        Raises:
            ConfigError: there is no such task, or not exactly one that takes such sentences.
            DataError: a sentence is missing, empty, or not text.
        """
        name, sides = self._task_and_sides(sentences, task)
        return self.frame(name, self.outputs(name, sides))

    def predict_proba(self, sentences: Sentences, task: str | None = None) -> pd.DataFrame:
        """Return the probabilities of labels: one row each, in order.

        Args:
            sentences, task: as `predict`.

        Returns:
            [N, C] a column for each label, with its name or number. Probabilities of classes sum to
            1; those of a multi-label task are independent.

        Raises:
            ConfigError, DataError: as `predict`; or the task predicts scores.
        """
        name, sides = self._task_and_sides(sentences, task)
        kind, labels = self.tasks[name].kind, self.tasks[name].labels
        if kind.output is Output.SCORE:
            raise ConfigError(f"{name}: the task predicts scores, which have no probabilities")
        outputs = self.outputs(name, sides)
        if kind.output is Output.BINARY:
            outputs = np.stack([expit(-outputs), expit(outputs)], axis=1)
        elif kind.output is Output.LABELS:
            outputs = expit(outputs)
        return pd.DataFrame(outputs, columns=list(labels) or None)

    def evaluate(
        self, folder: str | Path, split: Split = "dev", skip_bad_rows: bool = False
    ) -> Evaluation:
        """Score each task whose labelled file for `split` is in `folder`.

        Raises:
            DataError: there is no labelled file for any task, a file cannot be read, or rows have
                defects and `skip_bad_rows` is False.
        """
        contents = self.bundle.contents
        return evaluate(contents, self.timed_outputs, Path(folder), split, skip_bad_rows)

    def __repr__(self) -> str:
        return as_text(title_of(self.bundle.contents), tasks_table(self.bundle.contents))

    def _repr_html_(self) -> str:
        return as_html(title_of(self.bundle.contents), tasks_table(self.bundle.contents))

    def label(self, sentences: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
        """Label the rows of a data frame for one or several tasks, in order.

        Returns:
            As `predict`; with several tasks, each column's name starts with the task's, e.g.
            `sentiment_label`.

        Raises:
            DataError: as `predict`.
        """
        outputs = self.outputs_of_tasks({n: _sides(sentences, self.tasks[n]) for n in tasks})
        frames = [self.frame(name, outputs[name]) for name in tasks]
        if len(frames) == 1:
            return frames[0]
        named = [frame.add_prefix(f"{n}_") for n, frame in zip(tasks, frames, strict=True)]
        return pd.concat(named, axis=1)

    def task_name(self, task: str | None) -> str:
        """Return `task`, or if it is None, the bundle's only task.

        Raises:
            ConfigError: there is no such task, or it is None and there are several.
        """
        names = list(self.tasks)
        if task is None and len(names) == 1:
            return names[0]
        if task not in names:
            problem = "no task is named" if task is None else f"no task {task!r}"
            raise ConfigError(
                f"{problem}; this bundle has {', '.join(names)}",
                fix=f"name the task, such as {names[0]}",
            )
        return task

    def outputs(self, task: str, sides: Sides) -> NDArray[np.float64]:
        """Return the combined outputs of N examples, [N, C] or [N].

        Args:
            sides: for each sentence column, a tuple of N sentences.
        """
        return self.outputs_of_tasks({task: sides})[task]

    def outputs_of_tasks(self, sides: Mapping[str, Sides]) -> dict[str, NDArray[np.float64]]:
        """Return the combined outputs of each task's examples, [N, C] or [N]. Each distinct encoder
        runs once per distinct sentence of all tasks."""
        num_rows = {name: len(of_task[0]) for name, of_task in sides.items()}
        if not all(num_rows.values()):
            raise ValueError("no sentences to predict")
        pieces: dict[str, list[NDArray[np.float64]]] = {name: [] for name in sides}
        for start in range(0, max(num_rows.values()), _CHUNK):
            part = {
                name: tuple(side[start : start + _CHUNK] for side in of_task)
                for name, of_task in sides.items()
                if start < num_rows[name]
            }
            for name, outputs in self._members.outputs(part).items():
                pieces[name].append(outputs)
        return {name: np.concatenate(parts) for name, parts in pieces.items()}

    def timed_outputs(
        self, sides: Mapping[str, Sides]
    ) -> tuple[dict[str, NDArray[np.float64]], float]:
        """Return the `outputs_of_tasks` ([N, C] or [N] for each task), and the seconds per 1,000
        sentences."""
        first = {name: tuple(side[:1] for side in of_task) for name, of_task in sides.items()}
        self.outputs_of_tasks(first)  # loads the members
        started = time.perf_counter()
        outputs = self.outputs_of_tasks(sides)
        seconds = time.perf_counter() - started
        return outputs, 1000 * seconds / sum(len(s) for of_task in sides.values() for s in of_task)

    def frame(self, name: str, outputs: NDArray[np.float64]) -> pd.DataFrame:
        """Return a task's combined outputs [N, C] or [N] in the form of `predict`."""
        task = self.tasks[name]
        labels = predicted_labels(task.kind, outputs)
        columns: dict[str, Any] = {"label": [task.show(label) for label in labels.tolist()]}
        if task.kind.output.has_columns:
            probabilities = expit(outputs) if task.kind.output is Output.LABELS else outputs
            names = (f"probability_{label}" for label in task.label_names)
            columns |= dict(zip(names, probabilities.T, strict=True))
        elif task.kind.output is Output.BINARY:
            columns["probability"] = expit(outputs)
        return pd.DataFrame(columns)

    @cached_property
    def _members(self) -> "Members":
        from ensemble.inference.members import Members

        return Members(self.bundle, self.batch_size, self.precision)

    def _task_and_sides(self, sentences: Sentences, task: str | None) -> tuple[str, Sides]:
        """Return the task's name, and a tuple of N sentences for each of its sentence columns."""
        if isinstance(sentences, str):
            sentences = [sentences]
        elif not isinstance(sentences, pd.DataFrame):
            sentences = list(sentences)
        name = self.task_name(task) if task is not None else self._only_fitting(sentences)
        return name, _sides(sentences, self.tasks[name])

    def _only_fitting(self, sentences: list[Any] | pd.DataFrame) -> str:
        fitting = [name for name, task in self.tasks.items() if _fits(sentences, task)]
        if len(fitting) != 1:
            which = f"{', '.join(fitting)} all take" if fitting else "no task takes"
            raise ConfigError(
                f"{which} such sentences; this bundle has {', '.join(self.tasks)}",
                fix="name the task: task=...",
            )
        return fitting[0]


def check_row(place: str, cells: Iterable[Any], names: Sequence[str]) -> tuple[str, ...]:
    """Return the sentences of one row, one for each of the columns `names`, without outer blanks.

    Raises:
        DataError: a sentence is missing, empty or not Unicode text, or there are too many; the
            message names the place.
    """
    row = tuple(cells)
    if len(row) != len(names):
        raise DataError(
            f"{place}: {len(row)} sentence(s), the task takes {len(names)} ({', '.join(names)})"
        )
    for name, cell in zip(names, row, strict=True):
        if not isinstance(cell, str):
            raise DataError(f"{place}: {name} is {repr(cell)[:40]}, not text")
        if not is_text(cell):
            raise DataError(
                f"{place}: {name} is not Unicode text: half of a surrogate pair, or bytes that are "
                "not UTF-8"
            )
        if not cell.strip():
            raise DataError(f"{place}: {name} is empty")
    return tuple(cell.strip() for cell in row)


def _fits(sentences: list[Any] | pd.DataFrame, task: Task) -> bool:
    if isinstance(sentences, pd.DataFrame):
        return set(task.columns.sentences) <= set(sentences.columns)
    return not sentences or isinstance(sentences[0], str) != task.kind.is_pair


def _sides(sentences: list[Any] | pd.DataFrame, task: Task) -> Sides:
    """Return a tuple of N checked sentences for each of the task's sentence columns."""
    names = task.columns.sentences
    if isinstance(sentences, pd.DataFrame):
        missing = [name for name in names if name not in sentences.columns]
        if missing:
            raise DataError(f"no column {', '.join(missing)} for the task's sentences")
        rows: list[Any] = list(sentences[list(names)].itertuples(index=False, name=None))
    else:
        rows = sentences
    if not rows:
        raise DataError("no sentences to predict")
    checked = []
    for number, row in enumerate(rows, start=1):
        cells = row if isinstance(row, tuple | list | np.ndarray) else (row,)
        checked.append(check_row(f"row {number}", cells, names))
    return tuple(tuple(row[side] for row in checked) for side in range(len(names)))
