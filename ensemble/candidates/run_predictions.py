"""The dev predictions of one tracked run, proved to be of one data set, and its best epochs.

Choosing an epoch is part of choosing an ensemble: each half of dev does it by its own rows alone.

Legend: N rows, C classes, H halves.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemble.candidates.lineage import SOUP, encoder_of_start
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
from trainable.training.stages import first_judged_epoch, num_frozen_epochs

Download = Callable[[str, str], Path]
"""(run id, artifact path) -> local file."""


@dataclass(frozen=True)
class DevData:
    """What the predictions of a task are of; runs are compared by it."""

    fingerprint: str
    kind: Kind
    num_classes: int
    metric: str
    ids: tuple[str, ...]  # sorted
    labels: tuple[float, ...]

    @cached_property
    def halves(self) -> tuple[Fold, ...]:
        """[H]."""
        return folds(self.ids)[1:]

    @cached_property
    def truth(self) -> Floats:
        """[N] the labels."""
        return np.array(self.labels)

    @cached_property
    def counts(self) -> Floats:
        """[H, N] how often each row counts where a half chooses."""
        return np.array([half.fit for half in self.halves], np.float64)

    def difference(self, wanted: "DevData", whose: str) -> str:
        """The first thing in which this differs from `wanted`, the data of `whose`, in words."""
        if self.fingerprint != wanted.fingerprint:
            return f"data {self.fingerprint}, {whose}: {wanted.fingerprint}"
        for field in ("kind", "num_classes", "metric"):
            ours, theirs = getattr(self, field), getattr(wanted, field)
            if ours != theirs:
                return f"{field} {ours}, {whose}: {theirs}"
        if self.ids != wanted.ids:
            missing = len(set(wanted.ids) - set(self.ids))
            unknown = len(set(self.ids) - set(wanted.ids))
            return f"other rows than {whose}: {missing} ids missing, {unknown} unknown"
        changed = sum(a != b for a, b in zip(self.labels, wanted.labels, strict=True))
        return f"{changed} labels are not those of {whose}"


@dataclass(frozen=True, eq=False)
class RunPredictions:
    """A run's epochs that become candidates, and their outputs."""

    run: RunRecord
    epochs: tuple[int, ...]  # best on all of dev, overall or for a task, and kept
    best_of_halves: tuple[frozenset[int], ...]  # [H] the same on a half's rows, kept or not
    num_parameters: int  # 0: not recorded
    num_encoder_parameters: int  # of those; 0: not recorded
    num_frozen_epochs: int  # the first ones, of probes: they leave the encoder as it was
    frozen_encoder: str  # equal for runs that start from equal encoders and use them alike
    tasks: Mapping[str, Task]  # those with a metric
    data: Mapping[str, DevData]
    outputs: Mapping[str, Mapping[int, NDArray[np.float32]]]  # task -> epoch -> [N] or [N, C]


def read_run(run: RunRecord, download: Download, seen: dict[DevData, DevData]) -> RunPredictions:
    """Read the configuration and all predictions of a run that has kept weights.

    `seen` is added to: runs of the same data share one copy of it.

    Raises:
        EnsweepError: something is missing, or not what the run says it is.
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
    # An epoch after the last kept one is not the best of any task: training keeps those.
    for epoch in range(first_judged_epoch(config, max(kept)), max(kept) + 1):
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
                    "and judge on the other"
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
        frozen_encoder=_start_encoder(config, record),
        tasks=tasks,
        data=data,
        outputs={
            name: {epoch: outputs[name][epoch] for epoch in sorted(set(epochs).union(*best[1:]))}
            for name in tasks
        },
    )


class _Reader:
    """Reads the prediction files of one run, which are all of one tokenizer."""

    def __init__(self, run: RunRecord, download: Download) -> None:
        self.run, self.download = run, download
        self.tokenizer: str | None = None
        self._known: dict[str, tuple[tuple[str, tuple[str, ...]], Floats, DevData]] = {}
        self._last: tuple[int, Path, dict[str, Predictions]] | None = None

    def read(self, name: str, task: Task, epoch: int) -> tuple[NDArray[np.float32], DevData]:
        """Outputs [N, C] or [N] in the order of the sorted ids, and the data they are of."""
        path, by_task = self._file(epoch)
        if name not in by_task:
            raise IntegrityError(f"{path}: no predictions of {name}, but of {', '.join(by_task)}")
        predictions = by_task[name]
        predictions.require(
            path,
            task_name=name,
            split="dev",
            data_fingerprint=predictions.data_fingerprint,  # compared when all runs are known
            tokenizer=self.tokenizer,
        )
        self.tokenizer = predictions.tokenizer
        require_outputs(path, predictions, task)
        if predictions.labels is None:
            raise IntegrityError(f"{path}: no labels, hence nothing to choose by")
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
        """The file of an epoch and what is in it: read once for all tasks."""
        if self._last is None or self._last[0] != epoch:
            artifact = f"{PREDICTIONS_ARTIFACT}/{prediction_path(epoch)}"
            path = self.download(self.run.run_id, artifact)
            self._last = epoch, path, read_predictions(path)
        return self._last[1:]


@lru_cache(maxsize=64)
def _sorted(ids: tuple[str, ...]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The order in which ids are sorted, and they so: all epochs of all runs have the same ones."""
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return np.array(order, np.int64), tuple(ids[row] for row in order)


def require_outputs(path: Path, predictions: Predictions, task: Task) -> None:
    """Raises IntegrityError where outputs are not such as a head of the task puts out."""
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
            f"{path}: is of trial {record.trial!r} of sweep {record.sweep!r}, "
            f"not of {run.trial!r} of {run.sweep!r}"
        )
    return record


def _num_frozen_epochs(config: Config, record: TrialRecord) -> int:
    if record.recipe == SOUP:
        return 0  # it has one epoch, of whatever stage those of its ingredients were
    return num_frozen_epochs(config)


def _start_encoder(config: Config, record: TrialRecord) -> str:
    """Identity of the encoder before training, and of how sentences become its embeddings; "" where
    its size is not recorded, without which it cannot be paid for once."""
    if not record.notes.get("num_encoder_parameters"):
        return ""
    used = {"pooling": config.model.pooling, "max_length": config.model.max_length}
    facts = encoder_of_start(record, config) | used
    return short_hash(json.dumps(facts, sort_keys=True))


def _kept_epochs(run: RunRecord) -> set[int]:
    text = run.tags[Tag.KEPT_EPOCHS]
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise IntegrityError(f"the tag {Tag.KEPT_EPOCHS} is {text!r}, not a list of epochs")
    return {int(part) for part in parts}


def _scores(task: Task, outputs: NDArray[np.float32], data: DevData) -> Floats:
    """[1 + H] the metric on all of dev, then on each half."""
    whole, _ = task_metric(task, outputs, data.truth)
    of_halves = resampled_scores(task, outputs.astype(np.float64), data.truth, data.counts)
    return np.array([whole, *of_halves])


def _best_epochs(
    scores: Mapping[int, Mapping[str, Floats]], tasks: Mapping[str, Task], column: int
) -> set[int]:
    """Best overall and best for each task, by one column of the scores: all of dev's, or a half's.
    The earliest wins a tie."""
    table = []
    for of_epoch in scores.values():
        of_tasks = {name: float(values[column]) for name, values in of_epoch.items()}
        table.append([overall(of_tasks, tasks), *of_tasks.values()])
    epochs = list(scores)
    return {epochs[row] for row in np.argmax(table, axis=0)}
