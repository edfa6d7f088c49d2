"""Teachers: soft labels are made once, whoever needs them first.

Self-distillation trains its teachers here. Runs and bundles as teachers are `ensemble.teach`'s.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from mlflow_setup.errors import IntegrityError, NothingUsableError
from mlflow_setup.files import atomic_folder
from mlflow_setup.schema import OVERALL, Outcome
from trainable.config import Config
from trainable.dataset import Dataset
from trainable.evaluate import outputs_of, predictions_of
from trainable.model import load_member
from trainable.precision import choose_device, choose_precision
from trainable.record import TrialFolder
from trainable.soft_labels import soft_labels_dir, teacher_config
from trainable.tasks import Kind
from trainable.tokens import encode, load_tokenizer

if TYPE_CHECKING:
    from trainable.train import Identity

Outputs = Mapping[str, NDArray[np.floating[Any]]]
"""Task -> raw outputs [n, C] or [n] for its training examples."""

TEACHERS = "teachers"
"""The folder of the teachers that self-distillation trained, below the shared one."""


def ensure_soft_labels(folder: Path, dataset: Dataset, answer: Callable[[], list[Outputs]]) -> None:
    """Have `answer` give each teacher's outputs and write their average, unless it is there.

    One process does it; the others wait for it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return
        answers = answer()
        with atomic_folder(folder) as temporary:
            for name, examples in dataset.train.items():
                task = dataset.tasks[name]
                if task.kind is Kind.ENTAILMENT:
                    continue
                mean = average_outputs(task.kind, [outputs[name] for outputs in answers])
                predictions_of(task, examples, mean, "teacher").write(temporary / f"{name}.parquet")


def average_outputs(kind: Kind, outputs: list[NDArray[np.floating[Any]]]) -> NDArray[np.float32]:
    """Mean of probabilities as logits [n, C], of logits [n] or of scores [n] (as ensembles do)."""
    stacked = np.stack([np.asarray(values, np.float64) for values in outputs])
    if kind is not Kind.CLASSIFICATION:
        return np.asarray(stacked.mean(axis=0), np.float32)
    mean = logsumexp(log_softmax(stacked, axis=-1), axis=0) - np.log(len(outputs))
    return np.asarray(mean, np.float32)


def self_teach(
    config: Config, dataset: Dataset, shared: Path, train: Callable[..., Any], identity: "Identity"
) -> None:
    """Train the teachers of self-distillation on the student's data, and keep their soft labels.

    Raises:
        NothingUsableError: a teacher did not finish.
    """
    folder = soft_labels_dir(config, dataset, shared)

    def answer() -> list[Outputs]:
        answers = []
        for number in range(config.distill.num_teachers):
            trial = TrialFolder(shared / TEACHERS / f"{folder.name}-{number + 1}")
            taught = teacher_config(config, number)
            ended = train(taught, trial.path, identity=identity, dataset=dataset, shared=shared)
            if ended.outcome is not Outcome.FINISHED:
                raise NothingUsableError(
                    f"{trial.path}: the teacher {ended.outcome}: {ended.reason}",
                    fix="change the settings that it shares with its student",
                )
            answers.append(trial_outputs(trial, dataset))
        return answers

    ensure_soft_labels(folder, dataset, answer)


def trial_outputs(trial: TrialFolder, dataset: Dataset) -> Outputs:
    """What the best overall epoch of a trial puts out for the training examples.

    Raises:
        IntegrityError: its weights are not whole, or it was not trained on one of the tasks.
    """
    from trainable.config import from_flat

    config = from_flat(trial.trial().config)
    kept = set(trial.kept_epochs())
    records = [record for record in trial.epochs() if record.epoch in kept]
    if not records:
        raise IntegrityError(f"{trial.path}: no weights were kept")
    best = max(records, key=lambda record: (record.metrics[OVERALL], -record.epoch))
    model = load_member(trial.require_weights(best.epoch), trial.encoder_dir, config)
    device = choose_device(config.train.device)
    model = model.to(device)
    tokenizer = load_tokenizer(trial.encoder_dir)
    precision = choose_precision(config.train.precision, device)
    missing = [name for name in dataset.train if name not in model.head_names]
    if missing:
        raise IntegrityError(f"{trial.path}: the teacher has no task {', '.join(missing)}")
    return {
        name: outputs_of(
            model,
            name,
            encode(examples, tokenizer, model.max_length),
            config.train.eval_batch_size,
            precision,
        )
        for name, examples in dataset.train.items()
        if dataset.tasks[name].kind is not Kind.ENTAILMENT
    }
