"""Predictions of models that are not tracked here, from files, beside the candidates of a pool.

    id,probability_0,probability_1,...    class probabilities, each row with a sum of 1
    id,probability                        of a paraphrase
    id,score                              of similarity
    id,label                              a class or 0/1, which becomes a smoothed one-hot; a score

A file is of the task whose dev rows have exactly its ids, in any order: what `ensweep predict`
wrote for a task's dev file fits. A `.parquet` file is one of our own prediction files, and its
header has to be of the pool's data. Legend: N rows, C classes.
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
from mlflow_setup.text import printable
from trainable.config.tasks import Output, Task
from trainable.data.defects import FIXES
from trainable.data.labels import label_sets, label_value
from trainable.data.tables import Fault, delimiter_of, reading, table_rows, text_lines
from trainable.storage.predictions import Predictions, read_predictions

SURE = 0.9
"""The probability that a hard label stands for; the other classes share the rest."""
_SMALLEST = 1e-6
"""Probabilities are cut here and at 1 less it: a logit has to be finite."""
_SUM = 0.01
"""How far a row's probabilities may be from a sum of 1: they may have been rounded."""


def with_added(pool: Pool, given: Iterable[str]) -> Pool:
    """The pool with one candidate more for each file.

    Args:
        given: `FILE`, or `TASK=FILE` where several tasks have the same ids.

    Raises:
        DataError: a file that cannot be read, has a defect, or is not of the rows of one task.
        IntegrityError: a prediction file that is damaged, or of other data or another form.
    """
    if not pool.candidates:
        return pool  # no rows to compare with; the choice says why there is no candidate
    tasks, added = dict(pool.tasks), list(pool.added)
    for text in given:
        name, _, rest = text.partition("=")
        among = {name: pool.tasks[name]} if rest and name in pool.tasks else pool.tasks
        path = Path(rest if among is not pool.tasks else text)
        if any(one.candidate.trial == path.name for one in added):
            raise DataError(f"{path}: a file of this name is added already", fix="rename it")
        of_file: list[Added] = []
        candidate = Candidate(
            run_id=f"added:{path.name}",
            trial=path.name,
            sweep=None,
            epoch=0,
            weights_uri="",
            num_parameters=0,
        )
        for task, outputs, form in _read(path, among):
            tasks[task] = _grown(tasks[task], candidate, outputs)
            of_file.append(Added(candidate, task, form))
        added += of_file
    return dataclasses.replace(pool, tasks=tasks, added=tuple(added))


def smoothed(task: Task, labels: Floats) -> Floats:
    """What a model puts out that is `SURE` of each label: logits [N, C], or [N] of paraphrases.

    Args:
        labels: [N] as `Examples` has them.
    """
    if task.kind.output is Output.LABELS:
        return smoothed_sign(label_sets(labels, task.num_classes))
    if task.kind.output is Output.BINARY:
        return smoothed_sign(labels > 0)
    probabilities = np.full((len(labels), task.num_classes), (1 - SURE) / (task.num_classes - 1))
    probabilities[np.arange(len(labels)), labels.astype(np.int64)] = SURE
    return np.asarray(np.log(probabilities))


def smoothed_sign(is_so: NDArray[np.bool_]) -> Floats:
    """[N], [N, C] or any other shape: the logits of `SURE` and of the rest."""
    return np.where(is_so, 1.0, -1.0) * math.log(SURE / (1 - SURE))


def _grown(pool: TaskPool, candidate: Candidate, outputs: Floats) -> TaskPool:
    """The pool with the candidate in its place, choosable by all of dev and by each half."""
    candidates = (*pool.candidates, candidate)
    order = sorted(range(len(candidates)), key=lambda m: candidates[m].order)
    every = np.ones((len(pool.choosable), 1), np.bool_)
    return dataclasses.replace(
        pool,
        candidates=tuple(candidates[m] for m in order),
        outputs=np.concatenate([pool.outputs, outputs[None].astype(np.float32)])[order],
        choosable=np.hstack([pool.choosable, every])[:, order],
        listed=np.append(pool.listed, True)[order],
    )


def _read(path: Path, tasks: Mapping[str, TaskPool]) -> list[tuple[str, Floats, str]]:
    """The tasks that a file is of, outputs in the order of the pool's rows, and their form."""
    if path.suffix.lower() == ".parquet":
        return _from_our_file(path, tasks)
    return [_from_table(path, tasks)]


def _from_table(path: Path, tasks: Mapping[str, TaskPool]) -> tuple[str, Floats, str]:
    header, rows = _rows_of(path)
    name = _task_of(path, set(rows), tasks)
    pool = tasks[name]
    columns, form = _columns(path, header, pool.task)
    values = np.array([_numbers(path, *rows[row], columns, pool.task) for row in pool.ids])
    if form == "probabilities":
        if pool.task.kind.output is Output.CLASSES:
            return name, np.log(np.maximum(values, _SMALLEST)), form
        p = np.clip(values, _SMALLEST, 1 - _SMALLEST)
        logits = np.log(p / (1 - p))
        return name, logits if pool.task.kind.output.has_columns else logits[:, 0], form
    if form == "scores":
        return name, values[:, 0], form
    return name, smoothed(pool.task, values[:, 0]), f"labels, each taken for {SURE:.0%} sure"


def _from_our_file(path: Path, tasks: Mapping[str, TaskPool]) -> list[tuple[str, Floats, str]]:
    """The wanted tasks of an epoch's file; one at least."""
    by_task = read_predictions(path)
    names = [name for name in by_task if name in tasks]
    if not names:
        raise DataError(f"{path}: of the task {printable(', '.join(by_task))!r}, which no run has")
    return [(name, _in_order(path, by_task[name], tasks[name]), "outputs") for name in names]


def _in_order(path: Path, predictions: Predictions, pool: TaskPool) -> Floats:
    name = predictions.task_name
    predictions.require(path, task_name=name, split="dev", data_fingerprint=pool.data_fingerprint)
    require_outputs(path, predictions, pool.task)
    _task_of(path, set(predictions.ids), {name: pool})
    place = {row_id: row for row, row_id in enumerate(predictions.ids)}
    return predictions.outputs[[place[row_id] for row_id in pool.ids]].astype(np.float64)


def _rows_of(path: Path) -> tuple[list[str], dict[str, tuple[int, dict[str, str]]]]:
    """The header, and by their ids the rows with their lines. Blanks around ids are nothing, as in
    the tasks' files."""
    rows: dict[str, tuple[int, dict[str, str]]] = {}
    header: list[str] | None = None
    for line, cells in _cells_of(path):
        place = f"{path}:{line}"
        if header is None:
            header = [name.strip() for name in cells]
            if "id" not in header:
                raise DataError(f"{path}: no column id; it has {printable(', '.join(header))!r}")
            continue
        if len(cells) != len(header):
            raise DataError(f"{place}: not one cell for each of {len(header)} columns")
        row = dict(zip(header, cells, strict=True))
        id_ = row["id"].strip()
        if id_ in rows:
            raise DataError(f"{place}: id {printable(id_)!r} is there twice")
        rows[id_] = line, row
    return header or [], rows


def _cells_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows with their lines, the header first, read as the tasks' files are."""
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
            fix=f"name its task: --add {fitting[0]}={path}",
        )
    nearest = max(tasks, key=lambda name: len(ids & set(tasks[name].ids)))
    wanted = set(tasks[nearest].ids)
    raise DataError(
        f"{path}: not the dev rows of a task: of {nearest}'s {len(wanted)} ids "
        f"{len(wanted - ids)} are missing, {len(ids - wanted)} are unknown",
        fix="predict exactly the rows of the dev file that the runs were scored on",
    )


def _columns(path: Path, header: Sequence[str], task: Task) -> tuple[list[str], str]:
    """The columns to read and what they hold: the richest form that is there."""
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
        if min(values) < 0 or max(values) > 1 or abs(total - 1) > _SUM:
            raise DataError(f"{path}:{line}: {values} are not probabilities with a sum of 1")
    return values
