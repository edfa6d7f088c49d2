"""A teacher's soft labels: its outputs for the training examples, one prediction file per task.

They are computed once (`trainable.distillation.teacher`, `ensemble.distillation.teachers`) and
stored in the folder that the trials of a sweep share, under a hash of the teacher and the data.

Legend: n examples, C classes or labels.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.manifest import MANIFEST, sha256_file
from mlflow_setup.text import short_hash
from trainable.config.config import Config
from trainable.config.tasks import Kind
from trainable.data.dataset import Dataset
from trainable.storage.predictions import Predictions

if TYPE_CHECKING:
    from torch import Tensor

SOFT_LABELS, TEACHERS = "soft_labels", "teachers"
"""Folders, in the shared folder, of soft labels and of the teachers that a sweep trains."""


def soft_labels_dir(config: Config, dataset: Dataset, shared: Path) -> Path:
    """The folder of the soft labels that a configuration's teacher gives the training examples.

    Raises:
        IntegrityError: the teacher is a bundle that cannot be read.
    """
    teacher = config.distill.teacher
    facts: list[object] = [teacher, dataset.fingerprint]
    if teacher == "self":
        facts += [config.distill.num_teachers, teacher_config(config, 0).flat()]
    elif teacher.startswith("bundle:"):
        manifest = Path(teacher.removeprefix("bundle:")) / MANIFEST
        try:
            facts.append(sha256_file(manifest))
        except OSError as error:
            raise IntegrityError(f"distill.teacher: {manifest}: {error.strerror}") from None
    return shared / SOFT_LABELS / _digest(facts)


def teacher_config(config: Config, number: int) -> Config:
    """The configuration of teacher `number` (from 0) in self-distillation."""
    plain = type(config.distill)()
    return config.model_copy(update={"distill": plain, "seed": config.seed + number})


def teacher_dir(teacher: Config, dataset: Dataset, shared: Path) -> Path:
    """The trial folder of a teacher with that configuration and data, shared by its students."""
    return shared / TEACHERS / _digest([teacher.flat(), dataset.fingerprint])


def read_soft_labels(folder: Path, dataset: Dataset) -> "dict[str, Tensor]":
    """Task -> float32 [n, C] or [n], in the order of its training examples.

    Raises:
        IntegrityError: a file is missing, damaged, or was made for other examples.
    """
    import torch  # reports import this module and need no torch

    by_task = {}
    for name, examples in dataset.train.items():
        if dataset.tasks[name].kind is Kind.ENTAILMENT:
            continue
        path = folder / f"{name}.parquet"
        predictions = Predictions.read(path)
        predictions.require(
            path, task_name=name, split="train", data_fingerprint=examples.fingerprint
        )
        if predictions.ids != examples.ids:
            raise IntegrityError(f"{path}: its rows are not in the order of the training examples")
        by_task[name] = torch.from_numpy(predictions.outputs)
    return by_task


def _digest(facts: list[object]) -> str:
    return short_hash(json.dumps(facts, sort_keys=True))
