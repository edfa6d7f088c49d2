"""A trial in an object store: uploads in the background, and reports after them."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from stores import URI, Machines
from tiny_trials import config_of, run

from mlflow_setup.errors import StorageError
from mlflow_setup.filesystem.manifest import MANIFEST
from mlflow_setup.filesystem.object_store import ObjectStore
from mlflow_setup.filesystem.opening import storage_folder
from mlflow_setup.filesystem.storage import storage_of
from mlflow_setup.schema import EpochRecord, Outcome
from trainable.config.config import Config
from trainable.model.weight_files import ENCODER_FILE
from trainable.storage.trial_folder import TrialFolder
from trainable.training.learner import Learner

PUT = ObjectStore.put


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machines:
    return Machines(monkeypatch, tmp_path)


@pytest.fixture
def config(tiny_encoder: Path, tiny_data: Path) -> Config:
    return config_of(tiny_encoder, tiny_data)


def local_trial() -> TrialFolder:
    """The trial in this machine's working copy, updated from the store."""
    trial = TrialFolder(storage_folder(URI) / "s" / "trials" / "0001")
    trial.refresh()
    return trial


def test_an_epoch_is_uploaded_while_the_next_trains_and_then_reported(
    config: Config, machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the next epoch are written after the report."""
    trial, has_trained, reported = local_trial(), threading.Event(), list[int]()
    dev_outputs = Learner.dev_outputs

    def put(store: ObjectStore, name: str, content: Any) -> str:
        if "/checkpoint/" in name:
            assert has_trained.wait(60)  # the next epoch, up to its evaluation
        return PUT(store, name, content)

    def evaluate(learner: Learner) -> Any:
        if trial.epoch(1) is not None:
            assert reported == []
            has_trained.set()
        return dev_outputs(learner)

    def report(record: EpochRecord) -> None:
        names = machines.names()
        assert f"s/trials/0001/epochs/{record.epoch:04d}.json" in names
        checkpoints = [name for name in names if "/checkpoint/" in name]
        assert len(checkpoints) == 2 * record.epoch
        assert not trial.predictions_path(record.epoch + 1).exists()
        reported.append(record.epoch)

    monkeypatch.setattr(ObjectStore, "put", put)
    monkeypatch.setattr(Learner, "dev_outputs", evaluate)
    assert run(config, trial.path, tmp_path, report=report).outcome is Outcome.FINISHED
    assert reported == [1, 2]
    files = {path for path in trial.path.rglob("*") if path.is_file()}
    expected = {path.relative_to(storage_folder(URI)).as_posix() for path in files}
    assert {name for name in machines.names() if not name.endswith("/.whole")} == expected


def test_a_stopped_trial_waits_for_its_uploads(
    config: Config, machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, is_stopping, reported = local_trial(), threading.Event(), list[int]()

    def put(store: ObjectStore, name: str, content: Any) -> str:
        if "/checkpoint/" in name:
            assert is_stopping.wait(60)
        return PUT(store, name, content)

    def stop() -> bool:
        if trial.epoch(1) is not None:
            is_stopping.set()
        return is_stopping.is_set()

    monkeypatch.setattr(ObjectStore, "put", put)
    report = lambda record: reported.append(record.epoch)  # noqa: E731
    ended = run(config, trial.path, tmp_path, report=report, stop=stop)
    assert (ended.outcome, reported) == (Outcome.STOPPED, [1])
    machines.next_one(monkeypatch)
    resumed = local_trial()
    assert resumed.outcome() == ended
    assert len(list(resumed.checkpoint_dir.glob("*/manifest.json"))) == 1


@pytest.mark.parametrize("lost", ["weights/0001/model", "checkpoint/"])
def test_a_failed_upload_is_an_error_and_no_record_refers_to_missing_files(
    config: Config, machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The epoch is not reported. Another machine resumes the trial."""

    def put(store: ObjectStore, name: str, content: Any) -> str:
        if lost in name:
            raise StorageError("unreachable")
        return PUT(store, name, content)

    reported: list[int] = []
    report = lambda record: reported.append(record.epoch)  # noqa: E731
    monkeypatch.setattr(ObjectStore, "put", put)
    with pytest.raises(StorageError, match="unreachable"):
        run(config, local_trial().path, tmp_path, report=report)
    assert reported == []
    names = machines.names()
    has_record = "s/trials/0001/epochs/0001.json" in names
    assert has_record == (lost == "checkpoint/")
    assert f"s/trials/0001/weights/0001/{MANIFEST}" in names or not has_record
    monkeypatch.setattr(ObjectStore, "put", PUT)
    machines.next_one(monkeypatch)
    resumed = local_trial()
    assert run(config, resumed.path, tmp_path, report=report).outcome is Outcome.FINISHED
    assert reported == [1, 2]
    assert resumed.require_weights(resumed.kept_epochs()[0])


def test_a_frozen_encoder_is_uploaded_once(
    tiny_encoder: Path,
    tiny_data: Path,
    machines: Machines,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By two trials of one process; in the store, each kept epoch has a copy."""
    monkeypatch.setattr("mlflow_setup.filesystem.working_copy.MIN_COPY_BYTES", 10_000)
    monkeypatch.setattr(
        "trainable.training.trainer.epochs_to_keep", lambda past, *_: {p.epoch for p in past}
    )
    sent: list[str] = []

    def put(store: ObjectStore, name: str, content: Any) -> str:
        sent.append(name)
        return PUT(store, name, content)

    monkeypatch.setattr(ObjectStore, "put", put)
    root = storage_folder(URI)
    for name in ("0001", "0002"):
        heads = ("train.stages=[probe]", "probe.num_epochs=3", f"seed={name[-1]}")
        folder = root / "s" / "trials" / name
        run(config_of(tiny_encoder, tiny_data, *heads), folder, tmp_path / name)
        storage_of(folder).end(folder)  # as a worker before its next trial
    encoders = [name for name in machines.names() if name.endswith(ENCODER_FILE)]
    assert len(encoders) == 6
    (first,) = (name for name in sent if name.endswith(ENCODER_FILE))
    assert first.startswith("s/trials/0001/weights/")
    machines.next_one(monkeypatch)
    assert json.loads((local_trial().require_weights(3) / MANIFEST).read_text())["epoch"] == 3
