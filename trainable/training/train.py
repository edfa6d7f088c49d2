"""Training one trial, from its settings to its outcome.

It knows neither Ray nor MLflow: reporting is a callable.
"""

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
    """Report to nothing."""


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
    """Train one trial in `folder`, or go on with it; a trial that has ended is left as it is.

    Args:
        report: called after each epoch, once everything of the epoch is in the storage: to an
            object store it goes up while the next one trains.
        stop: asked before each step, and as often before the first; True checkpoints and ends the
            call as `stopped`.
        dataset: the data, where the caller has read it already.
        shared: folder of what trials have in common: encoders that additional pre-training made
            (missing ones are trained here), soft labels, encoders that only heads were trained on.
            Default: the cache folder.
        encoder: the one that additional pre-training made, where the caller has it already.
        teach: makes the soft labels of a teacher that is not this configuration's own, unless they
            are there; called once, with `stop`. None: they are there.

    Raises:
        ConfigError: the folder holds another trial, the encoder cannot be loaded, or the device is
            not there or has too little memory.
        DataError: the data has errors and `data.on_bad_rows` is `error`.
        IntegrityError: a teacher is named whose soft labels are not there or damaged.
        NothingUsableError: pre-training diverged, or a teacher did not finish.
    """
    trial = TrialFolder(folder)
    ended = trial.outcome()
    if ended is not None and ended.outcome.is_terminal:
        return ended
    choose_device(config.train.device)  # before anything is read or made
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
            seed_globals(config.seed)  # only here: encoder and labels may have been made, or read
            learner = Learner(
                config, dataset, None if encoder is None else str(encoder), soft_labels
            )
            trainer = Trainer(config, trial, dataset, learner, identity, stop, shared)
            outcome, reason = trainer.run(report)
        except StopRequested as asked:
            outcome, reason = Outcome.STOPPED, f"asked to stop {asked}"
        record = OutcomeRecord(outcome, reason, len(trial.epochs()), time.time())
        if (folder / "config.json").exists():  # else it has not begun
            trial.write_outcome(record)
    return record
