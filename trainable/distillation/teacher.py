"""Teachers: soft labels are made once, by the first trial that needs them.

Self-distillation trains its teachers here. Runs and bundles as teachers are
`ensemble.distillation.teachers`'s.

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
from trainable.runtime.stopping import AskedToStop, Stop, exclusive, go_on, never
from trainable.storage.trial_folder import TrialFolder

_logger = logging.getLogger(__name__)

Outputs = Mapping[str, NDArray[np.floating[Any]]]
"""Task -> raw outputs [n, C] or [n] for its training examples."""

_ROWS = 4096
"""Examples that a teacher labels between two questions whether to stop."""


def ensure_soft_labels(
    folder: Path, dataset: Dataset, answer: Callable[[], list[Outputs]], stop: Stop = never
) -> None:
    """Have `answer` give each teacher's outputs and write their average, unless it is there.

    One process does it; the others wait for it. Damaged ones are made again.

    Raises:
        AskedToStop: while another process made it.
    """
    with exclusive(folder, stop):
        if folder.is_dir():
            try:
                read_soft_labels(folder, dataset)
                return
            except IntegrityError as error:
                _logger.warning("soft labels are made again: %s", error.problem)
        answers = answer()
        remove_folder(folder)
        with atomic_folder(folder) as temporary:
            for name, examples in dataset.train.items():
                task = dataset.tasks[name]
                if task.kind is Kind.ENTAILMENT:
                    continue
                mean = average_outputs(task.kind, [outputs[name] for outputs in answers])
                predictions_of(task, examples, mean, "teacher").write(temporary / f"{name}.parquet")


def average_outputs(kind: Kind, outputs: list[NDArray[np.floating[Any]]]) -> NDArray[np.float32]:
    """Mean of probabilities as logits [n, C], of logits [n] or of scores [n] (as ensembles do)."""
    from scipy.special import log_softmax, logsumexp  # trials without a teacher need no scipy

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
    beside: Path,
    train: Callable[[Config, Path], OutcomeRecord],
    stop: Stop,
) -> dict[str, Tensor] | None:
    """The soft labels of a configuration's teacher, task -> [N, C] or [N] as `read_soft_labels`;
    None without one.

    Self-distillation has its teachers trained first, unless the labels are there: below `shared`,
    where every student that needs one of them finds it. A finished trial in `beside` of the same
    configuration and data is as good.

    Args:
        beside: folder of trials, the student's own among them.
        train: trains a configuration in a folder, on the student's data and encoder.

    Raises:
        AskedToStop: before the soft labels were there.
        IntegrityError: a teacher is named whose soft labels are not there or damaged.
        NothingUsableError: a teacher did not finish.
    """
    if not config.distill.enabled:
        return None
    folder = soft_labels_dir(config, dataset, shared)

    def answer() -> list[Outputs]:
        answers = []
        for number in range(config.distill.num_teachers):
            taught = teacher_config(config, number)
            trial = _finished(taught, dataset, beside)
            if trial is None:
                trial = TrialFolder(teacher_dir(taught, dataset, shared))
                with exclusive(trial.path, stop):
                    _require_finished(trial, train(taught, trial.path))
            answers.append(trial_outputs(trial, dataset, stop))
        return answers

    if config.distill.teacher == "self":
        ensure_soft_labels(folder, dataset, answer, stop)
    return read_soft_labels(folder, dataset)


def _finished(taught: Config, dataset: Dataset, beside: Path) -> TrialFolder | None:
    """A finished trial that is this teacher, as B3 is B4's where a sweep has both."""
    for path in sorted(beside.glob("*/outcome.json")):
        trial = TrialFolder(path.parent)
        try:
            record, ended = trial.trial(), trial.outcome()
            is_same = from_flat(record.config) == taught
        except EnsweepError:
            continue  # damaged, or of a version with other settings
        is_same = is_same and record.data_fingerprint == dataset.fingerprint
        if is_same and ended is not None and ended.outcome is Outcome.FINISHED:
            records = trial.epochs()
            if records and best_epoch(records).epoch in trial.kept_epochs():
                return trial
    return None


def _require_finished(trial: TrialFolder, ended: OutcomeRecord) -> None:
    if ended.outcome is Outcome.STOPPED:
        raise AskedToStop(f"while its teacher was trained: {ended.reason}")
    if ended.outcome is not Outcome.FINISHED:
        raise NothingUsableError(
            f"{trial.path}: the teacher {ended.outcome}: {ended.reason}",
            fix="change the settings that it shares with its student",
        )


def trial_outputs(trial: TrialFolder, dataset: Dataset, stop: Stop = never) -> Outputs:
    """What the best overall epoch of a trial puts out for the training examples.

    Raises:
        AskedToStop: before it had answered.
        IntegrityError: its weights are not whole, or it was not trained on one of the tasks.
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
    answer = partial(predict, model, tokenizer=tokenizer, batch_size=size, precision=precision)
    return {
        name: in_stretches(partial(answer, name), dataset.train[name].sentences, stop)
        for name in labelled
    }


def in_stretches(
    answer: Callable[[Sides], NDArray[np.floating[Any]]], sides: Sides, stop: Stop
) -> NDArray[np.floating[Any]]:
    """A teacher's outputs, [n, C] or [n], asked for some thousand examples at a time.

    Raises:
        AskedToStop: before it had answered.
    """
    pieces = []
    for start in range(0, len(sides[0]), _ROWS):
        go_on(stop, "while its teacher gave its soft labels")
        pieces.append(answer(tuple(side[start : start + _ROWS] for side in sides)))
    return np.concatenate(pieces)
