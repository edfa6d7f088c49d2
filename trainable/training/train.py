"""Training one trial, from its settings to its outcome, without Ray and MLflow."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mlflow_setup.filesystem.paths import cache_folder
from mlflow_setup.filesystem.storage import storage_of
from mlflow_setup.schema import (
    EpochRecord,
    Identity,
    Outcome,
    OutcomeRecord,
)
from trainable.config.config import Config
from trainable.data.dataset import Dataset, read_dataset
from trainable.distillation.teacher import soft_labels_of
from trainable.pretraining.pretrain import pretrained_encoder
from trainable.runtime.precision import choose_device
from trainable.runtime.rng_state import seed_globals
from trainable.runtime.stopping import Stop, StopRequested, never_stop
from trainable.storage.trial_folder import TrialFolder
from trainable.training.learner import Learner
from trainable.training.trainer import Trainer


def ignore(record: EpochRecord) -> None:
    """A `report` that does nothing."""


def train(
    config: Config,
    folder: Path,
    *,
    identity: Identity,
    report: Callable[[EpochRecord], None] = ignore,
    stop: Stop = never_stop,
    dataset: Dataset | None = None,
    shared: Path | None = None,
    encoder: Path | None = None,
    teach: Callable[[Stop], None] | None = None,
) -> OutcomeRecord:
    """Train one trial in `folder`, or resume it; a trial that has ended is not changed.

    Args:
        report: called after each epoch, once the storage has all files of the epoch; uploads to an
            object store run while the next epoch trains.
        stop: called before each step, and regularly before the first; if it returns True, a
            checkpoint is saved and the call ends with the outcome `stopped`.
        dataset: the data, if the caller has read it already.
        shared: folder for what trials share: encoders from additional pre-training (missing ones
            are trained here), soft labels, and frozen encoders. Default: the cache folder.
        encoder: the encoder from additional pre-training, if the caller has it already.
        teach: computes the soft labels of a run or bundle as teacher, if they are missing; called
            once, with `stop`. None: they exist.

    Raises:
        ConfigError: the folder belongs to another trial, the encoder cannot be loaded, or the
            device is missing or has too little memory.
        DataError: the data has errors and `data.on_bad_rows` is `error`.
        IntegrityError: the soft labels of a named teacher (a run or bundle) are missing or damaged.
        NothingUsableError: pre-training diverged, or a teacher did not finish.
    """
    trial = TrialFolder(folder)
    ended = trial.outcome()
    if ended is not None and ended.outcome.is_terminal:
        return ended
    choose_device(config.train.device)  # fail early
    with storage_of(folder).in_background(folder):
        trial.reopen()
        dataset, shared = dataset or read_dataset(config), shared or cache_folder()
        try:
            if encoder is None and config.pretrain.enabled:
                encoder = pretrained_encoder(config, shared, stop)
            if teach is not None:
                teach(stop)
            train_teacher = partial(
                train, identity=identity, stop=stop, dataset=dataset, shared=shared, encoder=encoder
            )
            soft_labels = soft_labels_of(
                config, dataset, shared, trials=folder.parent, train=train_teacher, stop=stop
            )
            seed_globals(config.seed)  # after pre-training and teachers, which may use randomness
            learner = Learner(
                config, dataset, None if encoder is None else str(encoder), soft_labels
            )
            trainer = Trainer(config, trial, dataset, learner, identity, stop, shared)
            outcome, reason = trainer.run(report)
        except StopRequested as stopped:
            outcome, reason = Outcome.STOPPED, f"asked to stop {stopped}"
        record = OutcomeRecord(outcome, reason, len(trial.epochs()), time.time())
        if (folder / "config.json").exists():  # else the trial has not begun
            trial.write_outcome(record)
    return record
