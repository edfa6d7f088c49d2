"""A loaded bundle: sentences in, labels out. Each distinct encoder runs once a sentence.

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
"""Rows whose sentences are embedded before the next rows': what bounds the memory."""
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
            batch_size: examples a forward pass.
            precision: fp32, bf16, or auto (bf16 where the device multiplies it in hardware).

        Raises:
            ConfigError: no such precision, or a batch size below 1.
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
            `label`: a class, 0 or 1 (their names, where the task declares them), the names of a
            set's labels, or a score; for classes and sets also `probability_0`.. or by name, for
            paraphrase `probability` (of 1).

        Raises:
            ConfigError: no such task, or not exactly one that fits.
            DataError: a sentence is missing, empty, or not text.
        """
        name, sides = self._asked(sentences, task)
        return self.frame(name, self.outputs(name, sides))

    def predict_proba(self, sentences: Sentences, task: str | None = None) -> pd.DataFrame:
        """The probabilities of labels: one row each, in order.

        Args:
            sentences, task: as `predict`.

        Returns:
            [N, C], a column a label: its name, or its number. Those of one class of several sum to
            1; of a set each stands by itself.

        Raises:
            ConfigError, DataError: as `predict`; or the task has scores.
        """
        name, sides = self._asked(sentences, task)
        asked = self.tasks[name]
        if asked.kind.output is Output.SCORE:
            raise ConfigError(f"{name}: its answers are scores, without probabilities")
        outputs = self.outputs(name, sides)
        if asked.kind.output is Output.BINARY:
            outputs = np.stack([expit(-outputs), expit(outputs)], axis=1)
        elif asked.kind.output is Output.LABELS:
            outputs = expit(outputs)
        return pd.DataFrame(outputs, columns=list(asked.labels) or None)

    def evaluate(
        self, folder: str | Path, split: Split = "dev", skip_bad_rows: bool = False
    ) -> Evaluation:
        """Score each task whose labelled file for `split` is in `folder`.

        Raises:
            DataError: no labelled file of any task, a file that cannot be read, or rows with
                defects that are not to be skipped.
        """
        contents = self.bundle.contents
        return evaluate(contents, self.timed_outputs, Path(folder), split, skip_bad_rows)

    def __repr__(self) -> str:
        return as_text(title_of(self.bundle.contents), tasks_table(self.bundle.contents))

    def _repr_html_(self) -> str:
        return as_html(title_of(self.bundle.contents), tasks_table(self.bundle.contents))

    def label(self, sentences: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
        """Label the rows of a data frame for one task or several, in order.

        Returns:
            As `predict`; with several tasks, each column has its task's name before it:
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
        """`task` itself if the bundle has it; None: its only one.

        Raises:
            ConfigError: no such task, or None and several.
        """
        names = list(self.tasks)
        if task is None and len(names) == 1:
            return names[0]
        if task not in names:
            problem = "no task is named" if task is None else f"no task {task!r}"
            raise ConfigError(f"{problem}; this bundle has {', '.join(names)}", fix="name one")
        return task

    def outputs(self, task: str, sides: Sides) -> NDArray[np.float64]:
        """Combined outputs of N examples, [N, C] or [N], given a tuple of N sentences a side."""
        return self.outputs_of_tasks({task: sides})[task]

    def outputs_of_tasks(self, sides: Mapping[str, Sides]) -> dict[str, NDArray[np.float64]]:
        """Combined outputs of each task's examples, [N, C] or [N]: of a sentence that several
        tasks, members or rows have in common, each distinct encoder runs once."""
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
        """`outputs_of_tasks` ([N, C] or [N] a task), and the seconds that 1,000 sentences took."""
        first = {name: tuple(side[:1] for side in of_task) for name, of_task in sides.items()}
        self.outputs_of_tasks(first)  # loads the members
        started = time.perf_counter()
        outputs = self.outputs_of_tasks(sides)
        seconds = time.perf_counter() - started
        return outputs, 1000 * seconds / sum(len(s) for of_task in sides.values() for s in of_task)

    def frame(self, name: str, outputs: NDArray[np.float64]) -> pd.DataFrame:
        """A task's combined outputs [N, C] or [N] as `predict` returns them."""
        task = self.tasks[name]
        labels = predicted_labels(task.kind, outputs)
        columns: dict[str, Any] = {"label": [task.show(label) for label in labels.tolist()]}
        if task.kind.output.has_columns:
            of_labels = expit(outputs) if task.kind.output is Output.LABELS else outputs
            names = (f"probability_{label}" for label in task.label_names)
            columns |= dict(zip(names, of_labels.T, strict=True))
        elif task.kind.output is Output.BINARY:
            columns["probability"] = expit(outputs)
        return pd.DataFrame(columns)

    @cached_property
    def _members(self) -> "Members":
        from ensemble.inference.members import Members

        return Members(self.bundle, self.batch_size, self.precision)

    def _asked(self, sentences: Sentences, task: str | None) -> tuple[str, Sides]:
        """The task that is meant, and a tuple of N sentences for each of its sides."""
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
    """The sentences of one row, one for each of the columns `names`.

    Raises:
        DataError: naming the place, if one is missing, empty or not Unicode text, or there are too
            many.
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
    """A tuple of N sentences for each side; every one of them proved to be text."""
    names = task.columns.sentences
    if isinstance(sentences, pd.DataFrame):
        missing = [name for name in names if name not in sentences.columns]
        if missing:
            raise DataError(f"no column {', '.join(missing)} for the task's sentences")
        given: list[Any] = list(sentences[list(names)].itertuples(index=False, name=None))
    else:
        given = sentences
    if not given:
        raise DataError("no sentences to predict")
    rows = []
    for number, row in enumerate(given, start=1):
        cells = row if isinstance(row, tuple | list | np.ndarray) else (row,)
        rows.append(check_row(f"row {number}", cells, names))
    return tuple(tuple(row[side] for row in rows) for side in range(len(names)))
