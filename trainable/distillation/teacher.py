"""Teachers: the first trial that needs soft labels computes them.

This module trains the teachers of self-distillation; `ensemble.distillation.teachers` uses runs and
bundles as teachers.

Legend: n or N examples, C classes or labels.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mlflow_setup.errors import EnsweepError, IntegrityError, NothingUsableError
from mlflow_setup.filesystem.atomic import atomic_folder, remove_folder
from mlflow_setup.schema import Outcome, OutcomeRecord, best_epoch
from trainable.batches.tokenization import load_tokenizer
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.config.tasks import Kind, Output
from trainable.data.dataset import Dataset
from trainable.distillation.soft_labels import (
    read_soft_labels,
    soft_labels_dir,
    teacher_config,
    teacher_dir,
)
from trainable.evaluation.evaluate import predict, predictions_of
from trainable.evaluation.inference import Sides
from trainable.model.multitask import load_member
from trainable.runtime.precision import choose_device
from trainable.runtime.stopping import Stop, StopRequested, exclusive, never_stop, raise_if_stopped
from trainable.storage.trial_folder import TrialFolder

_logger = logging.getLogger(__name__)

Outputs = Mapping[str, NDArray[np.floating[Any]]]
"""Task -> raw outputs [n, C] or [n] for its training examples."""

_CHUNK_ROWS = 4096
"""Examples that a teacher labels between two calls of `stop`."""


def ensure_soft_labels(
    folder: Path,
    dataset: Dataset,
    predict_all: Callable[[], list[Outputs]],
    stop: Stop = never_stop,
) -> None:
    """Write the average of the teachers' outputs to `folder`, unless it is there and undamaged.

    One process does this while the others wait.

    Args:
        predict_all: returns the outputs of each teacher.

    Raises:
        StopRequested: while another process computed them.
    """
    with exclusive(folder, stop):
        if folder.is_dir():
            try:
                read_soft_labels(folder, dataset)
                return
            except IntegrityError as error:
                _logger.warning("soft labels are computed again: %s", error.problem)
        by_teacher = predict_all()
        remove_folder(folder)
        with atomic_folder(folder) as temporary:
            for name, examples in dataset.train.items():
                task = dataset.tasks[name]
                if task.kind is Kind.ENTAILMENT:
                    continue
                mean = average_outputs(task.kind, [outputs[name] for outputs in by_teacher])
                predictions_of(task, examples, mean, "teacher").write(temporary / f"{name}.parquet")


def average_outputs(kind: Kind, outputs: list[NDArray[np.floating[Any]]]) -> NDArray[np.float32]:
    """The mean of several models' outputs, as ensembles combine them.

    For classes [n, C]: the logarithm of the mean probabilities; else the mean of the logits [n, C]
    or [n], or of the scores [n].
    """
    from scipy.special import log_softmax, logsumexp  # only trials with a teacher need SciPy

    stacked = np.stack([np.asarray(values, np.float64) for values in outputs])
    if kind.output is not Output.CLASSES:
        return np.asarray(stacked.mean(axis=0), np.float32)
    mean = logsumexp(log_softmax(stacked, axis=-1), axis=0) - np.log(len(outputs))
    return np.asarray(mean, np.float32)


def soft_labels_of(
    config: Config,
    dataset: Dataset,
    shared: Path,
    *,
    trials: Path,
    train: Callable[[Config, Path], OutcomeRecord],
    stop: Stop,
) -> dict[str, Tensor] | None:
    """The soft labels of a configuration's teacher: task -> [N, C] or [N] as `read_soft_labels`;
    None without distillation.

    Self-distillation first trains the teachers whose soft labels are missing, in `shared`, where
    all students find them. A finished trial in `trials` with the same configuration and data is
    used instead of a new teacher.

    Args:
        trials: folder of the sweep's trials, the student among them.
        train: trains a configuration in a folder, on the student's data and encoder.

    Raises:
        StopRequested: before the soft labels were complete.
        IntegrityError: the soft labels of a named teacher (a run or bundle) are missing or damaged.
        NothingUsableError: a teacher did not finish.
    """
    if not config.distill.enabled:
        return None
    folder = soft_labels_dir(config, dataset, shared)

    def predict_all() -> list[Outputs]:
        by_teacher = []
        for number in range(config.distill.num_teachers):
            teacher = teacher_config(config, number)
            trial = _finished(teacher, dataset, trials)
            if trial is None:
                trial = TrialFolder(teacher_dir(teacher, dataset, shared))
                with exclusive(trial.path, stop):
                    _require_finished(trial, train(teacher, trial.path))
            by_teacher.append(trial_outputs(trial, dataset, stop))
        return by_teacher

    if config.distill.teacher == "self":
        ensure_soft_labels(folder, dataset, predict_all, stop)
    return read_soft_labels(folder, dataset)


def _finished(teacher: Config, dataset: Dataset, trials: Path) -> TrialFolder | None:
    """A finished trial with the teacher's configuration and data; None: there is none.

    For example the B3 that is B4's teacher, in a sweep that has both.
    """
    for path in sorted(trials.glob("*/outcome.json")):
        trial = TrialFolder(path.parent)
        try:
            record, ended = trial.trial(), trial.outcome()
            is_same = from_flat(record.config) == teacher
        except EnsweepError:
            continue  # damaged, or written by a version with other settings
        is_same = is_same and record.data_fingerprint == dataset.fingerprint
        if is_same and ended is not None and ended.outcome is Outcome.FINISHED:
            records = trial.epochs()
            if records and best_epoch(records).epoch in trial.kept_epochs():
                return trial
    return None


def _require_finished(trial: TrialFolder, ended: OutcomeRecord) -> None:
    if ended.outcome is Outcome.STOPPED:
        raise StopRequested(f"while its teacher was trained: {ended.reason}")
    if ended.outcome is not Outcome.FINISHED:
        raise NothingUsableError(
            f"{trial.path}: the teacher {ended.outcome}: {ended.reason}",
            fix="change the settings that it shares with its student",
        )


def trial_outputs(trial: TrialFolder, dataset: Dataset, stop: Stop = never_stop) -> Outputs:
    """The outputs of a trial's best overall epoch for the training examples.

    Raises:
        StopRequested: `stop` returned True.
        IntegrityError: its weights are missing or damaged, or it has no head for one of the tasks.
    """
    config = from_flat(trial.trial().config)
    kept = set(trial.kept_epochs())
    records = [record for record in trial.epochs() if record.epoch in kept]
    if not records:
        raise IntegrityError(f"{trial.path}: no weights were kept")
    weights = trial.require_weights(best_epoch(records).epoch)
    model = load_member(weights, trial.encoder_dir, config)
    model = model.to(choose_device(config.train.device))
    labelled = [name for name in dataset.train if dataset.tasks[name].kind is not Kind.ENTAILMENT]
    missing = [name for name in labelled if name not in model.head_names]
    if missing:
        raise IntegrityError(f"{trial.path}: the teacher has no task {', '.join(missing)}")
    tokenizer = load_tokenizer(trial.encoder_dir)

    size, precision = config.train.eval_batch_size, config.train.precision
    outputs_of = partial(predict, model, tokenizer=tokenizer, batch_size=size, precision=precision)
    return {
        name: predict_in_chunks(partial(outputs_of, name), dataset.train[name].sentences, stop)
        for name in labelled
    }


def predict_in_chunks(
    predict_chunk: Callable[[Sides], NDArray[np.floating[Any]]], sides: Sides, stop: Stop
) -> NDArray[np.floating[Any]]:
    """A teacher's outputs [n, C] or [n], computed for a few thousand examples at a time.

    Raises:
        StopRequested: `stop` returned True.
    """
    chunks = []
    for start in range(0, len(sides[0]), _CHUNK_ROWS):
        raise_if_stopped(stop, "while its teacher computed soft labels")
        chunks.append(predict_chunk(tuple(side[start : start + _CHUNK_ROWS] for side in sides)))
    return np.concatenate(chunks)
