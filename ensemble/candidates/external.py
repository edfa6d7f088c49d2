"""Adds predictions of models that are not tracked here to a pool, from files.

    id,probability_0,probability_1,...    class probabilities; each row sums to 1
    id,probability                        of label 1 of a binary task
    id,score                              of a task with scores
    id,label                              a class or 0/1 (label smoothing is applied), or a score

A file belongs to the task whose dev rows have exactly its ids, in any order; the output of `ensweep
predict` for a task's dev file can be used. A `.parquet` file is a trial's prediction file, and must
be of the same data as the pool. Legend: N rows, C classes.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemble.candidates.pool import Added, Candidate, Pool, TaskPool
from ensemble.candidates.run_predictions import require_outputs
from ensemble.statistics.arrays import Floats
from mlflow_setup.errors import DataError
from mlflow_setup.filesystem.paths import near_file
from mlflow_setup.text import printable, there_are
from trainable.config.tasks import Output, Task
from trainable.data.defects import FIXES
from trainable.data.labels import label_sets, label_value
from trainable.data.tables import Fault, delimiter_of, reading, table_rows, text_lines
from trainable.storage.predictions import Predictions, read_predictions

LABEL_PROBABILITY = 0.9
"""The probability assigned to a hard label (label smoothing); the other classes share the rest."""
_MIN_PROBABILITY = 1e-6
"""Probabilities are clipped to this and 1 minus this, so that logits are finite."""
_SUM_TOLERANCE = 0.01
"""Maximum difference of a row's sum of probabilities from 1: they may have been rounded."""


def with_added(pool: Pool, specs: Iterable[str]) -> Pool:
    """Return the pool with one more candidate for each file.

    Args:
        specs: `FILE`, or `TASK=FILE` where several tasks have the same ids.

    Raises:
        DataError: a file cannot be read, has a defect, or its rows are not those of one task.
        IntegrityError: a trial's prediction file is damaged, or of other data or another shape.
    """
    if not pool.candidates:
        return pool  # no rows to compare with; `choose` reports why there is no candidate
    tasks, added = dict(pool.tasks), list(pool.added)
    for spec in specs:
        name, _, rest = spec.partition("=")
        is_named = bool(rest) and name in pool.tasks
        among = {name: pool.tasks[name]} if is_named else pool.tasks
        path = Path(rest if is_named else spec)
        _check_file(path, name if rest and not is_named else None, pool.tasks)
        if any(one.candidate.trial == path.name for one in added):
            raise DataError(f"{path}: a file of this name is already added", fix="rename it")
        candidate = Candidate(
            run_id=f"added:{path.name}",
            trial=path.name,
            sweep=None,
            epoch=0,
            weights_uri="",
            num_parameters=0,
        )
        for task, outputs, form in _read(path, among):
            tasks[task] = _with_candidate(tasks[task], candidate, outputs)
            added.append(Added(candidate, task, form))
    return dataclasses.replace(pool, tasks=tasks, added=tuple(added))


def _check_file(path: Path, task: str | None, tasks: Iterable[str]) -> None:
    """Raise DataError for a file that does not exist; `task` is what precedes `=` in its name, and
    was perhaps meant to be a task."""
    if path.exists():
        return
    if task is not None:
        raise DataError(f"{path}: no task {task!r}{there_are(task, tasks)}", fix="--add TASK=FILE")
    raise DataError(f"{path}: there is no such file{near_file(path)}", fix="--add FILE")


def smoothed(task: Task, labels: Floats) -> Floats:
    """Return the logits of smoothed labels: [N, C] of classes, [N] of a binary task.

    Args:
        labels: [N] as in `Examples`.
    """
    if task.kind.output is Output.LABELS:
        return smoothed_binary(label_sets(labels, task.num_classes))
    if task.kind.output is Output.BINARY:
        return smoothed_binary(labels > 0)
    rest = (1 - LABEL_PROBABILITY) / (task.num_classes - 1)
    probabilities = np.full((len(labels), task.num_classes), rest)
    probabilities[np.arange(len(labels)), labels.astype(np.int64)] = LABEL_PROBABILITY
    return np.asarray(np.log(probabilities))


def smoothed_binary(is_positive: NDArray[np.bool_]) -> Floats:
    """Return the logits of smoothed binary labels, in their shape: [N], [N, C] or any other."""
    return np.where(is_positive, 1.0, -1.0) * math.log(LABEL_PROBABILITY / (1 - LABEL_PROBABILITY))


def _with_candidate(pool: TaskPool, candidate: Candidate, outputs: Floats) -> TaskPool:
    """Return the pool with one more candidate, choosable on all of dev and on each half."""
    candidates = (*pool.candidates, candidate)
    order = sorted(range(len(candidates)), key=lambda m: candidates[m].order)
    is_choosable = np.ones((len(pool.choosable), 1), np.bool_)
    return dataclasses.replace(
        pool,
        candidates=tuple(candidates[m] for m in order),
        outputs=np.concatenate([pool.outputs, outputs[None].astype(np.float32)])[order],
        choosable=np.hstack([pool.choosable, is_choosable])[:, order],
        listed=np.append(pool.listed, True)[order],
    )


def _read(path: Path, tasks: Mapping[str, TaskPool]) -> list[tuple[str, Floats, str]]:
    """Return a file's tasks, the outputs in the order of the pool's rows, and a description of what
    the file holds."""
    if path.suffix.lower() == ".parquet":
        return _from_prediction_file(path, tasks)
    return [_from_table(path, tasks)]


def _from_table(path: Path, tasks: Mapping[str, TaskPool]) -> tuple[str, Floats, str]:
    header, rows = _rows_of(path)
    name = _task_of(path, set(rows), tasks)
    pool = tasks[name]
    columns, form = _columns(path, header, pool.task)
    values = np.array([_numbers(path, *rows[row], columns, pool.task) for row in pool.ids])
    if form == "probabilities":
        if pool.task.kind.output is Output.CLASSES:
            return name, np.log(np.maximum(values, _MIN_PROBABILITY)), form
        p = np.clip(values, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
        logits = np.log(p / (1 - p))
        return name, logits if pool.task.kind.output.has_columns else logits[:, 0], form
    if form == "scores":
        return name, values[:, 0], form
    form = f"labels, each with probability {LABEL_PROBABILITY:g}"
    return name, smoothed(pool.task, values[:, 0]), form


def _from_prediction_file(
    path: Path, tasks: Mapping[str, TaskPool]
) -> list[tuple[str, Floats, str]]:
    """Return the pool's tasks of a trial's prediction file; at least one."""
    by_task = read_predictions(path)
    names = [name for name in by_task if name in tasks]
    if not names:
        found = printable(", ".join(by_task))
        raise DataError(f"{path}: predictions for {found!r}, a task that no run has")
    return [(name, _in_order(path, by_task[name], tasks[name]), "outputs") for name in names]


def _in_order(path: Path, predictions: Predictions, pool: TaskPool) -> Floats:
    name = predictions.task_name
    predictions.require(path, task_name=name, split="dev", data_fingerprint=pool.data_fingerprint)
    require_outputs(path, predictions, pool.task)
    _task_of(path, set(predictions.ids), {name: pool})
    place = {row_id: row for row, row_id in enumerate(predictions.ids)}
    return predictions.outputs[[place[row_id] for row_id in pool.ids]].astype(np.float64)


def _rows_of(path: Path) -> tuple[list[str], dict[str, tuple[int, dict[str, str]]]]:
    """Return the header, and id -> (line number, row). Blanks around ids are ignored, as in the
    tasks' files."""
    rows: dict[str, tuple[int, dict[str, str]]] = {}
    header: list[str] | None = None
    for line, cells in _cells_of(path):
        place = f"{path}:{line}"
        if header is None:
            header = [name.strip() for name in cells]
            if "id" not in header:
                columns = printable(", ".join(header))
                raise DataError(f"{path}: no column id; its columns are {columns!r}")
            continue
        if len(cells) != len(header):
            raise DataError(f"{place}: {len(cells)} cells, the header has {len(header)}")
        row = dict(zip(header, cells, strict=True))
        id_ = row["id"].strip()
        if id_ in rows:
            raise DataError(f"{place}: duplicate id {printable(id_)!r}")
        rows[id_] = line, row
    return header or [], rows


def _cells_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of the rows, the header first, read like the tasks' files."""
    with reading(path), path.open("rb") as stream:
        lines = text_lines(stream)
        first = next(lines, "")
        delimiter = delimiter_of(first, ["id"], [","])
        for line, row in table_rows(chain([first], lines), delimiter, "standard"):
            if isinstance(row, Fault):
                raise DataError(f"{path}:{line}: {row.message}", fix=FIXES[row.code])
            yield line, row


def _task_of(path: Path, ids: set[str], tasks: Mapping[str, TaskPool]) -> str:
    fitting = [name for name, pool in tasks.items() if ids == set(pool.ids)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(
            f"{path}: {', '.join(fitting)} have the same rows",
            fix=f"name the file's task: --add {fitting[0]}={path}",
        )
    nearest = max(tasks, key=lambda name: len(ids & set(tasks[name].ids)))
    expected = set(tasks[nearest].ids)
    raise DataError(
        f"{path}: not the dev rows of a task: of {nearest}'s {len(expected)} ids "
        f"{len(expected - ids)} are missing, {len(ids - expected)} are unknown",
        fix="predict exactly the rows of the dev file that the runs were scored on",
    )


def _columns(path: Path, header: Sequence[str], task: Task) -> tuple[list[str], str]:
    """Return the columns to read and what they hold: probabilities or scores if the file has them,
    else labels."""
    best, of_label = ["probability"], "labels"
    if task.kind.output.has_columns:
        best = [f"probability_{name}" for name in task.label_names]
    elif task.kind.output is Output.SCORE:
        best, of_label = ["score"], "scores"
    if set(best) <= set(header):
        return best, "scores" if best == ["score"] else "probabilities"
    if "label" in header:
        return ["label"], of_label
    raise DataError(
        f"{path}: neither {', '.join(best)} nor label among its columns: "
        f"{printable(', '.join(header))}"
    )


def _numbers(
    path: Path, line: int, row: Mapping[str, str], columns: Sequence[str], task: Task
) -> list[float]:
    values = []
    for name in columns:
        shown = printable(row[name])[:40]
        if name == "label" and task.kind.may_name_labels:
            value, why = label_value(task, row[name].strip())
            if why:
                raise DataError(f"{path}:{line}: label is {shown!r}, {why}")
            values.append(value)
            continue
        try:
            value = float(row[name])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{path}:{line}: {name} is {shown!r}, not a finite number")
        values.append(value)
    if columns[0].startswith("probability"):
        total = sum(values) if task.kind.output is Output.CLASSES else 1.0
        if min(values) < 0 or max(values) > 1 or abs(total - 1) > _SUM_TOLERANCE:
            raise DataError(f"{path}:{line}: {values} are not probabilities with a sum of 1")
    return values
