"""Reads the dev predictions of one tracked run, checks that all are of the same data, and finds
its best epochs.

The choice of epochs is part of what is cross-fitted: each half of dev makes it on its own rows.

Legend: N rows, C classes, H halves.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemble.candidates.lineage import SOUP, initial_encoder
from ensemble.statistics.arrays import Floats
from ensemble.statistics.bootstrap import resampled_scores
from ensemble.statistics.dev_splits import NUM_HALVES, Fold, folds
from mlflow_setup.errors import IntegrityError
from mlflow_setup.schema import (
    CONFIG_ARTIFACT,
    PREDICTIONS_ARTIFACT,
    RunRecord,
    Tag,
    TrialRecord,
    prediction_path,
)
from mlflow_setup.text import short_hash
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.config.tasks import Kind, Task
from trainable.evaluation.metrics import overall, task_metric
from trainable.storage.predictions import Predictions, read_predictions
from trainable.training.stages import first_candidate_epoch, num_frozen_epochs

Download = Callable[[str, str], Path]
"""(run id, artifact path) -> local file."""


@dataclass(frozen=True)
class DevData:
    """The dev data of a task's predictions, by which runs are compared."""

    fingerprint: str
    kind: Kind
    num_classes: int
    metric: str
    ids: tuple[str, ...]  # sorted
    labels: tuple[float, ...]

    @cached_property
    def halves(self) -> tuple[Fold, ...]:
        """[H] the folds that choose on one half."""
        return folds(self.ids)[1:]

    @cached_property
    def truth(self) -> Floats:
        """[N] the labels, as an array."""
        return np.array(self.labels)

    @cached_property
    def counts(self) -> Floats:
        """[H, N] 1 for the rows of each half, 0 for the others."""
        return np.array([half.fit for half in self.halves], np.float64)

    def difference(self, expected: "DevData", whose: str) -> str:
        """Describe the first difference from `expected`, which is the data of `whose`."""
        if self.fingerprint != expected.fingerprint:
            return f"data {self.fingerprint}, {whose}: {expected.fingerprint}"
        for field in ("kind", "num_classes", "metric"):
            ours, theirs = getattr(self, field), getattr(expected, field)
            if ours != theirs:
                return f"{field} {ours}, {whose}: {theirs}"
        if self.ids != expected.ids:
            missing = len(set(expected.ids) - set(self.ids))
            unknown = len(set(self.ids) - set(expected.ids))
            return f"other rows than {whose}: {missing} ids missing, {unknown} unknown"
        changed = sum(a != b for a, b in zip(self.labels, expected.labels, strict=True))
        return f"{changed} labels differ from those of {whose}"


@dataclass(frozen=True, eq=False)
class RunPredictions:
    """A run's epochs that become candidates, and their outputs."""

    run: RunRecord
    epochs: tuple[int, ...]  # with kept weights; best on all of dev, overall or for a task
    best_of_halves: tuple[frozenset[int], ...]  # [H] best on each half, with or without weights
    num_parameters: int  # 0: not recorded
    num_encoder_parameters: int  # included in `num_parameters`; 0: not recorded
    num_frozen_epochs: int  # number of first epochs that trained only heads
    frozen_encoder: str  # identifies the encoder before training and its pooling; "": not recorded
    tasks: Mapping[str, Task]  # those with a metric
    data: Mapping[str, DevData]
    outputs: Mapping[str, Mapping[int, NDArray[np.float32]]]  # task -> epoch -> [N] or [N, C]


def read_run(run: RunRecord, download: Download, seen: dict[DevData, DevData]) -> RunPredictions:
    """Read the configuration and all predictions of a run whose weights were kept.

    Args:
        seen: a cache that is added to, so that runs of the same data share one copy of it.

    Raises:
        EnsweepError: something is missing, or does not match the run.
    """
    record = _trial_record(run, download)
    config = from_flat(record.config)
    trained = config.task_records()
    tasks = {name: task for name, task in trained.items() if task.is_evaluated}
    kept = _kept_epochs(run)
    reader = _Reader(run, download)
    data: dict[str, DevData] = {}
    outputs: dict[str, dict[int, NDArray[np.float32]]] = {name: {} for name in tasks}
    scores: dict[int, dict[str, Floats]] = {}  # epoch -> task -> [1 + H], all of dev first
    # Training keeps the best epoch of every task, so no epoch after the last kept one is the best.
    for epoch in range(first_candidate_epoch(config, max(kept)), max(kept) + 1):
        scores[epoch] = {}
        for name, task in tasks.items():
            values, dev_data = reader.read(name, task, epoch)
            if name not in data:
                data[name] = seen.setdefault(dev_data, dev_data)
            first = data[name]
            if dev_data != first:
                raise IntegrityError(
                    f"{name}, epoch {epoch}: {dev_data.difference(first, 'epoch 1')}"
                )
            if not first.counts.any(axis=1).all():
                raise IntegrityError(
                    f"{name}: {len(first.ids)} dev rows, too few to choose on one half of them "
                    "and score on the other"
                )
            scores[epoch][name] = _scores(task, values, first)
            outputs[name][epoch] = values
    best = [_best_epochs(scores, tasks, column) for column in range(1 + NUM_HALVES)]
    epochs = tuple(sorted(best[0] & kept))
    if not epochs:
        raise IntegrityError("the weights of its best epochs were not kept")
    return RunPredictions(
        run=run,
        epochs=epochs,
        best_of_halves=tuple(map(frozenset, best[1:])),
        num_parameters=record.notes.get("num_parameters", 0),
        num_encoder_parameters=record.notes.get("num_encoder_parameters", 0),
        num_frozen_epochs=_num_frozen_epochs(config, record),
        frozen_encoder=_initial_encoder_id(config, record),
        tasks=tasks,
        data=data,
        outputs={
            name: {epoch: outputs[name][epoch] for epoch in sorted(set(epochs).union(*best[1:]))}
            for name in tasks
        },
    )


class _Reader:
    """Reads the prediction files of one run, all of which must be of one tokenizer."""

    def __init__(self, run: RunRecord, download: Download) -> None:
        self.run, self.download = run, download
        self.tokenizer: str | None = None
        self._known: dict[str, tuple[tuple[str, tuple[str, ...]], Floats, DevData]] = {}
        self._last: tuple[int, Path, dict[str, Predictions]] | None = None

    def read(self, name: str, task: Task, epoch: int) -> tuple[NDArray[np.float32], DevData]:
        """Return the outputs [N, C] or [N] in the order of the sorted ids, and their data."""
        path, by_task = self._file(epoch)
        if name not in by_task:
            raise IntegrityError(f"{path}: no predictions of {name}, only of {', '.join(by_task)}")
        predictions = by_task[name]
        predictions.require(
            path,
            task_name=name,
            split="dev",
            data_fingerprint=predictions.data_fingerprint,  # compared once all runs are read
            tokenizer=self.tokenizer,
        )
        self.tokenizer = predictions.tokenizer
        require_outputs(path, predictions, task)
        if predictions.labels is None:
            raise IntegrityError(f"{path}: holds no labels, which an ensemble is chosen by")
        order, ids = _sorted(predictions.ids)
        facts, labels = (predictions.data_fingerprint, predictions.ids), predictions.labels
        known = self._known.get(name)
        if known is None or known[0] != facts or not np.array_equal(known[1], labels):
            data = DevData(
                fingerprint=predictions.data_fingerprint,
                kind=task.kind,
                num_classes=task.num_classes,
                metric=str(task.metric),
                ids=ids,
                labels=tuple(labels[order].tolist()),
            )
            self._known[name] = known = facts, labels, data
        return predictions.outputs[order], known[2]

    def _file(self, epoch: int) -> tuple[Path, dict[str, Predictions]]:
        """Return the path and content of an epoch's file, read once for all tasks."""
        if self._last is None or self._last[0] != epoch:
            artifact = f"{PREDICTIONS_ARTIFACT}/{prediction_path(epoch)}"
            path = self.download(self.run.run_id, artifact)
            self._last = epoch, path, read_predictions(path)
        return self._last[1:]


@lru_cache(maxsize=64)
def _sorted(ids: tuple[str, ...]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the indices that sort ids, and the sorted ids; cached, because all epochs of all runs
    have the same ids."""
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return np.array(order, np.int64), tuple(ids[row] for row in order)


def require_outputs(path: Path, predictions: Predictions, task: Task) -> None:
    """Check that the outputs are finite and have the shape of the task's: [N, C] or [N].

    Raises:
        IntegrityError: they are not.
    """
    num_rows = len(predictions.ids)
    shape = (num_rows, task.num_classes) if task.kind.output.has_columns else (num_rows,)
    if predictions.kind is not task.kind or predictions.outputs.shape != shape:
        raise IntegrityError(
            f"{path}: outputs {list(predictions.outputs.shape)} of a {predictions.kind} task, "
            f"expected {list(shape)} of a {task.kind} task"
        )
    if not np.isfinite(predictions.outputs).all():
        raise IntegrityError(f"{path}: outputs are not finite")


def _trial_record(run: RunRecord, download: Download) -> TrialRecord:
    path = download(run.run_id, CONFIG_ARTIFACT)
    try:
        record = TrialRecord.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: no trial record: {error}") from None
    if (record.trial, record.sweep) != (run.trial, run.sweep):
        raise IntegrityError(
            f"{path}: the record of trial {record.trial!r} of sweep {record.sweep!r}, "
            f"not of {run.trial!r} of {run.sweep!r}"
        )
    return record


def _num_frozen_epochs(config: Config, record: TrialRecord) -> int:
    if record.recipe == SOUP:
        return 0  # its one epoch is an average of epochs of any stage
    return num_frozen_epochs(config)


def _initial_encoder_id(config: Config, record: TrialRecord) -> str:
    """Return an id of the encoder before training, its pooling and its maximum length; "" where its
    size is not recorded, without which the cost of a shared encoder cannot be computed."""
    if not record.notes.get("num_encoder_parameters"):
        return ""
    used = {"pooling": config.model.pooling, "max_length": config.model.max_length}
    facts = initial_encoder(record, config) | used
    return short_hash(json.dumps(facts, sort_keys=True))


def _kept_epochs(run: RunRecord) -> set[int]:
    text = run.tags[Tag.KEPT_EPOCHS]
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise IntegrityError(f"the tag {Tag.KEPT_EPOCHS} is {text!r}, not a list of epochs")
    return {int(part) for part in parts}


def _scores(task: Task, outputs: NDArray[np.float32], data: DevData) -> Floats:
    """Return [1 + H] the metric on all of dev, then on each half."""
    whole, _ = task_metric(task, outputs, data.truth)
    of_halves = resampled_scores(task, outputs.astype(np.float64), data.truth, data.counts)
    return np.array([whole, *of_halves])


def _best_epochs(
    scores: Mapping[int, Mapping[str, Floats]], tasks: Mapping[str, Task], column: int
) -> set[int]:
    """Return the epochs that are best overall and for each task, by one column of the scores: on
    all of dev, or on one half. Ties go to the earliest."""
    table = []
    for of_epoch in scores.values():
        of_tasks = {name: float(values[column]) for name, values in of_epoch.items()}
        table.append([overall(of_tasks, tasks), *of_tasks.values()])
    epochs = list(scores)
    return {epochs[row] for row in np.argmax(table, axis=0)}
