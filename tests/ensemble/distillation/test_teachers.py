"""Soft labels: averaged from runs or a bundle, computed once, found again, refused if foreign."""

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
from mlflow_setup.schema import Identity, Outcome
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from trainable.data.dataset import read_dataset
from trainable.distillation.soft_labels import soft_labels_dir
from trainable.runtime.stopping import StopRequested
from trainable.training.train import train


@pytest.fixture
def tracking(tiny_runs: Path) -> Tracking:
    return resolve_tracking(tiny_runs)


def test_two_runs_are_averaged_as_an_ensemble_is(
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


def test_a_bundle_teaches_what_it_predicts(
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
def test_a_teacher_is_stopped_between_stretches(
    kind: str,
    tiny_encoder: Path,
    tiny_data: Path,
    tiny_bundle: Path,
    tracking: Tracking,
    tmp_path: Path,
) -> None:
    """And the training that waits for it: it has not begun, and goes on by the same call."""
    named = tiny_bundle if kind == "bundle" else find_trials(tracking, "tiny")[0].run_id
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher={kind}:{named}")
    asked = count(1)
    with pytest.raises(StopRequested, match="its teacher computed soft labels"):
        teach(config, tmp_path, tracking, stop=lambda: next(asked) == 2)
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


def test_soft_labels_are_computed_once(
    tiny_encoder: Path, tiny_data: Path, tiny_runs: Path, tracking: Tracking, tmp_path: Path
) -> None:
    run = find_trials(tracking, "tiny")[0]
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{run.run_id}")
    teach(config, tmp_path, tracking)
    folder = soft_labels_dir(config, read_dataset(config), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    teach(config, tmp_path, tracking)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert len(before) == 3


def test_a_teacher_needs_no_task_that_has_no_labels(
    tiny_encoder: Path, tiny_data: Path, tiny_runs: Path, tracking: Tracking, tmp_path: Path
) -> None:
    run = find_trials(tracking, "tiny")[0]
    tasks = "data.tasks=[sentiment, paraphrase, similarity, nli]"
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{run.run_id}", tasks)
    teach(config, tmp_path, tracking)
    assert set(labels_of(config, tmp_path)[1]) == {"sentiment", "paraphrase", "similarity"}


def test_what_cannot_teach_is_refused_by_name(
    tiny_encoder: Path, tiny_data: Path, tiny_runs: Path, tracking: Tracking, tmp_path: Path
) -> None:
    unknown = config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{'0' * 32}")
    with pytest.raises(ConfigError):
        teach(unknown, tmp_path, tracking)
    nowhere = config_of(tiny_encoder, tiny_data, f"distill.teacher=bundle:{tmp_path}/none")
    with pytest.raises(IntegrityError, match="none"):
        teach(nowhere, tmp_path, tracking)
    run = find_trials(tracking, "tiny")[0]
    with_nli = config_of(
        tiny_encoder,
        tiny_data,
        f"distill.teacher=run:{run.run_id}",
        "tasks.other={kind: classification, files: {train: ids-sst-train.csv, "
        "dev: ids-sst-dev.csv}, columns: {label: sentiment}, num_classes: 5}",
        "data.tasks=[sentiment, other]",
    )
    with pytest.raises(IntegrityError, match="no task other"):
        teach(with_nli, tmp_path, tracking)


def test_missing_or_foreign_soft_labels_stop_the_trial(
    tiny_encoder: Path, tiny_data: Path, tiny_runs: Path, tracking: Tracking, tmp_path: Path
) -> None:
    run = find_trials(tracking, "tiny")[0]
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{run.run_id}")
    identity = Identity("0001", None, "b3", {})
    with pytest.raises(IntegrityError, match=r"sentiment\.parquet"):
        train(config, tmp_path / "t", identity=identity, shared=tmp_path)
    teach(config, tmp_path, tracking)
    folder = soft_labels_dir(config, read_dataset(config), tmp_path)
    (folder / "similarity.parquet").write_bytes((folder / "paraphrase.parquet").read_bytes())
    with pytest.raises(IntegrityError, match="predictions for other data"):
        train(config, tmp_path / "t", identity=identity, shared=tmp_path)
    teach(config, tmp_path, tracking)  # foreign ones are replaced
    assert set(labels_of(config, tmp_path)[1]) == {"sentiment", "paraphrase", "similarity"}


def test_a_run_whose_weights_are_gone(
    tiny_encoder: Path, tiny_data: Path, tiny_runs: Path, tracking: Tracking, tmp_path: Path
) -> None:
    run = find_trials(tracking, "tiny")[0]
    config = config_of(tiny_encoder, tiny_data, f"distill.teacher=run:{run.run_id}")
    folder = tiny_runs / "tiny" / "trials" / run.trial
    away = folder.rename(tmp_path / "away")
    try:
        with pytest.raises(NothingUsableError, match="cannot be reached from here"):
            teach(config, tmp_path / "shared", tracking)
    finally:
        away.rename(folder)
