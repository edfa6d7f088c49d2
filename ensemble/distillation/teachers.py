"""Tracked runs and exported ensembles as teachers: soft labels of a trial's training examples."""

from functools import partial
from pathlib import Path

import numpy as np

from ensemble.bundle.format import verify
from ensemble.inference.ensemble import Ensemble
from mlflow_setup.errors import NothingUsableError
from mlflow_setup.runs.query import find_run
from mlflow_setup.schema import Tag
from mlflow_setup.tracking.store import Tracking
from trainable.config.config import Config
from trainable.config.tasks import Kind, Output
from trainable.data.dataset import Dataset, read_dataset
from trainable.distillation.soft_labels import soft_labels_dir
from trainable.distillation.teacher import (
    Outputs,
    ensure_soft_labels,
    predict_in_chunks,
    trial_outputs,
)
from trainable.runtime.stopping import Stop, never_stop
from trainable.storage.address import trial_at
from trainable.storage.trial_folder import TrialFolder

_MIN_PROBABILITY = 1e-12
"""Probabilities are raised to this before their logarithm is taken."""


def teach(
    config: Config,
    shared: Path,
    tracking: Tracking,
    dataset: Dataset | None = None,
    stop: Stop = never_stop,
) -> None:
    """Compute the soft labels of the teacher `distill.teacher` below `shared`, unless they exist.

    Does nothing for a configuration without distillation, or if the trial is its own teacher
    (`self`).

    Raises:
        StopRequested: `stop` was set before the soft labels were complete.
        ConfigError: no such run, or MLflow cannot be read.
        IntegrityError: a bundle or a run's weights are damaged, or lack one of the tasks.
        NothingUsableError: the weights of a run cannot be reached from here.
    """
    if not config.distill.enabled or config.distill.teacher == "self":
        return
    data = dataset or read_dataset(config)
    kind, _, rest = config.distill.teacher.partition(":")

    def compute() -> list[Outputs]:
        if kind == "bundle":
            return [_bundle_outputs(Ensemble.load(rest), data, stop)]
        trials = [_trial_of(tracking, run_id.strip()) for run_id in rest.split(",")]
        return [trial_outputs(trial, data, stop) for trial in trials]

    ensure_soft_labels(soft_labels_dir(config, data, shared), data, compute, stop)


def find_teacher(config: Config, tracking: Tracking) -> str:
    """Check that the teacher of `teach` exists, without running it.

    Returns:
        A description of it; "" if `teach` would do nothing.

    Raises:
        As `teach`.
    """
    kind, _, rest = config.distill.teacher.partition(":")
    if not config.distill.enabled or config.distill.teacher == "self":
        return ""
    if kind == "bundle":
        verify(Path(rest))
        return f"bundle {rest}"
    names = [_trial_of(tracking, run_id.strip()).path.name for run_id in rest.split(",")]
    return f"trial {', '.join(names)}"


def _trial_of(tracking: Tracking, run_id: str) -> TrialFolder:
    run = find_run(tracking, run_id)
    trial = trial_at(run.tags.get(Tag.WEIGHTS_URI, ""))
    if Tag.WEIGHTS_URI not in run.tags or not trial.path.is_dir():
        raise NothingUsableError(
            f"distill.teacher: the weights of run {run_id} cannot be reached from here",
            fix="name a finished trial whose storage folder is mounted",
        )
    return trial


def _bundle_outputs(ensemble: Ensemble, dataset: Dataset, stop: Stop) -> Outputs:
    outputs = {}
    for name, examples in dataset.train.items():
        kind = dataset.tasks[name].kind
        if kind is not Kind.ENTAILMENT:
            predict = partial(ensemble.outputs, ensemble.task_name(name))
            combined = predict_in_chunks(predict, examples.sentences, stop)
            if kind.output is Output.CLASSES:
                combined = np.log(np.maximum(combined, _MIN_PROBABILITY))
            outputs[name] = combined
    return outputs
