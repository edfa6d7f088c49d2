"""Soft labels: computed once from runs or a bundle; those of other data are refused."""

from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from distilled import best_outputs, config_of, labels_of
from scipy.special import softmax

from ensemble.distillation.teachers import teach
from ensemble.inference.ensemble import Ensemble
from mlflow_setup.errors import ConfigError, IntegrityError, NothingUsableError
from mlflow_setup.runs.query import find_trials
from mlflow_setup.schema import Identity, Outcome, RunRecord
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from trainable.config.config import Config
from trainable.data.dataset import read_dataset
from trainable.distillation.soft_labels import soft_labels_dir
from trainable.runtime.stopping import StopRequested
from trainable.training.train import train


@pytest.fixture
def tracking(tiny_runs: Path) -> Tracking:
    return resolve_tracking(tiny_runs)


@pytest.fixture
def teacher(tracking: Tracking) -> RunRecord:
    return find_trials(tracking, "tiny")[0]


@pytest.fixture
def config(tiny_encoder: Path, tiny_data: Path, teacher: RunRecord) -> Config:
    """A student of `teacher`."""
    return config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{teacher.run_id}")


def test_soft_labels_of_two_runs_are_averaged_as_in_an_ensemble(
    tiny_encoder: Path, tiny_data: Path, tiny_runs: Path, tracking: Tracking, tmp_path: Path
) -> None:
    runs = find_trials(tracking, "tiny")
    ids = ",".join(run.run_id for run in runs)
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{ids}")
    teach(config, tmp_path, tracking)
    dataset, soft = labels_of(config, tmp_path)
    folders = [tiny_runs / "tiny" / "trials" / run.trial for run in runs]
    for name in ("sentiment", "paraphrase", "similarity"):
        outputs = [best_outputs(folder, dataset, name) for folder in folders]
        if name == "sentiment":
            expected = np.mean([softmax(values, axis=1) for values in outputs], axis=0)
            actual = torch.softmax(soft[name], -1).numpy()
        else:
            expected, actual = np.mean(outputs, axis=0), soft[name].numpy()
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_soft_labels_of_a_bundle_are_its_predictions(
    tiny_encoder: Path, tiny_data: Path, tiny_bundle: Path, tracking: Tracking, tmp_path: Path
) -> None:
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher=bundle:{tiny_bundle}")
    teach(config, tmp_path, tracking)
    dataset, soft = labels_of(config, tmp_path)
    ensemble = Ensemble.load(tiny_bundle)
    for name, values in soft.items():
        expected = ensemble.outputs(name, dataset.train[name].sentences)
        actual = torch.softmax(values, -1).numpy() if name == "sentiment" else values.numpy()
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_a_stopped_teacher_stops_the_training_that_waits_for_it(
    kind: str,
    tiny_encoder: Path,
    tiny_data: Path,
    tiny_bundle: Path,
    teacher: RunRecord,
    tracking: Tracking,
    tmp_path: Path,
) -> None:
    """Training has not begun, and the same call begins it."""
    name = tiny_bundle if kind == "bundle" else teacher.run_id
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher={kind}:{name}")
    calls = count(1)
    with pytest.raises(StopRequested, match="its teacher computed soft labels"):
        teach(config, tmp_path, tracking, stop=lambda: next(calls) == 2)
    assert not soft_labels_dir(config, read_dataset(config), tmp_path).exists()
    begin = partial(
        train,
        config,
        tmp_path / "t",
        identity=Identity("0001", None, "b3", {}),
        shared=tmp_path,
        teach=partial(teach, config, tmp_path, tracking, None),
    )
    stopped = begin(stop=lambda: True)
    assert (stopped.outcome, stopped.epoch) == (Outcome.STOPPED, 0)
    assert stopped.reason == "asked to stop while its teacher computed soft labels"
    assert begin().outcome is Outcome.FINISHED


def test_soft_labels_are_computed_once(config: Config, tracking: Tracking, tmp_path: Path) -> None:
    teach(config, tmp_path, tracking)
    folder = soft_labels_dir(config, read_dataset(config), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    teach(config, tmp_path, tracking)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert len(before) == 3


def test_a_task_without_labels_needs_no_soft_labels(
    tiny_encoder: Path, tiny_data: Path, teacher: RunRecord, tracking: Tracking, tmp_path: Path
) -> None:
    tasks = "data.tasks=[sentiment, paraphrase, similarity, nli]"
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{teacher.run_id}", tasks)
    teach(config, tmp_path, tracking)
    assert set(labels_of(config, tmp_path)[1]) == {"sentiment", "paraphrase", "similarity"}


def test_an_unusable_teacher_is_refused(
    tiny_encoder: Path, tiny_data: Path, teacher: RunRecord, tracking: Tracking, tmp_path: Path
) -> None:
    unknown = config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{'0' * 32}")
    with pytest.raises(ConfigError):
        teach(unknown, tmp_path, tracking)
    missing = config_of(tiny_encoder, tiny_data, f"distill.teacher=bundle:{tmp_path}/none")
    with pytest.raises(IntegrityError, match="none"):
        teach(missing, tmp_path, tracking)
    with_other_task = config_of(
        tiny_encoder,
        tiny_data,
        f"distill.teacher=run:{teacher.run_id}",
        "tasks.other={kind: classification, files: {train: ids-sst-train.csv, "
        "dev: ids-sst-dev.csv}, columns: {label: sentiment}, num_classes: 5}",
        "data.tasks=[sentiment, other]",
    )
    with pytest.raises(IntegrityError, match="no task other"):
        teach(with_other_task, tmp_path, tracking)


def test_missing_soft_labels_and_those_of_other_data_are_refused(
    config: Config, tracking: Tracking, tmp_path: Path
) -> None:
    identity = Identity("0001", None, "b3", {})
    with pytest.raises(IntegrityError, match=r"sentiment\.parquet"):
        train(config, tmp_path / "t", identity=identity, shared=tmp_path)
    teach(config, tmp_path, tracking)
    folder = soft_labels_dir(config, read_dataset(config), tmp_path)
    (folder / "similarity.parquet").write_bytes((folder / "paraphrase.parquet").read_bytes())
    with pytest.raises(IntegrityError, match="predictions for other data"):
        train(config, tmp_path / "t", identity=identity, shared=tmp_path)
    teach(config, tmp_path, tracking)  # those of other data are replaced
    assert set(labels_of(config, tmp_path)[1]) == {"sentiment", "paraphrase", "similarity"}


def test_a_teacher_whose_weights_are_missing_is_refused(
    config: Config, tiny_runs: Path, teacher: RunRecord, tracking: Tracking, tmp_path: Path
) -> None:
    folder = tiny_runs / "tiny" / "trials" / teacher.trial
    moved = folder.rename(tmp_path / "moved")
    try:
        with pytest.raises(NothingUsableError, match="cannot be reached from here"):
            teach(config, tmp_path / "shared", tracking)
    finally:
        moved.rename(folder)
