"""A trial's folder and its records."""

from pathlib import Path

import numpy as np

from mlflow_setup.schema import (
    OVERALL,
    EpochRecord,
    TrialRecord,
)
from trainable.config.tasks import Kind
from trainable.storage.predictions import Predictions

RECORD = TrialRecord(
    trial="t1",
    sweep="s",
    recipe="b1",
    config={"optim.lr": 1e-4, "data.tasks": ["sentiment"], "model.revision": None},
    origin={"optim.lr": "command line"},
    seed=0,
    data_fingerprint="data",
    git_revision=None,
    start_time=1.5,
    searched=("optim.lr",),
    notes={"dropped": 3},
)


def epoch_record(epoch: int) -> EpochRecord:
    return EpochRecord(epoch, {OVERALL: 0.5}, {OVERALL: 0.25}, 1.0, float(epoch), ("flag",))


def predictions(task: str = "sentiment") -> Predictions:
    outputs = np.arange(6, dtype=np.float32).reshape(3, 2)
    return Predictions(task, Kind.CLASSIFICATION, "dev", ("a", "b", "c"), outputs, None, "d", "t")


def write_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
