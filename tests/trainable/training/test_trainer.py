"""A trial in an object store: an epoch goes up while the next trains, and is told once there."""

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


def trial_here() -> TrialFolder:
    """On this machine, as the store has it."""
    trial = TrialFolder(storage_folder(URI) / "s" / "trials" / "0001")
    trial.refresh()
    return trial


def test_an_epoch_goes_up_while_the_next_trains_and_is_told_once_it_is_there(
    config: Config, machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the next is written before."""
    trial, has_trained, told = trial_here(), threading.Event(), list[int]()
    dev_outputs, last_name = Learner.dev_outputs, ""

    def put(store: ObjectStore, name: str, content: Any) -> str:
        if "/checkpoint/" in name:
            assert has_trained.wait(60)  # all of the next epoch, up to its evaluation
        return PUT(store, name, content)

    def evaluate(learner: Learner) -> Any:
        if trial.epoch(1) is not None:
            assert told == []
            has_trained.set()
        return dev_outputs(learner)

    def report(record: EpochRecord) -> None:
        nonlocal last_name
        names = machines.names()
        last_name = f"s/trials/0001/epochs/{record.epoch:04d}.json"
        assert last_name in names
        checkpoints = [name for name in names if "/checkpoint/" in name]
        assert len(checkpoints) == 2 * record.epoch
        assert not trial.predictions_path(record.epoch + 1).exists()
        told.append(record.epoch)

    monkeypatch.setattr(ObjectStore, "put", put)
    monkeypatch.setattr(Learner, "dev_outputs", evaluate)
    assert run(config, trial.path, tmp_path, report=report).outcome is Outcome.FINISHED
    assert told == [1, 2]
    files = {path for path in trial.path.rglob("*") if path.is_file()}
    wanted = {path.relative_to(storage_folder(URI)).as_posix() for path in files}
    assert {name for name in machines.names() if not name.endswith("/.whole")} == wanted


def test_a_stopped_trial_waits_for_what_is_not_up_yet(
    config: Config, machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, asked, told = trial_here(), threading.Event(), list[int]()

    def put(store: ObjectStore, name: str, content: Any) -> str:
        if "/checkpoint/" in name:
            assert asked.wait(60)
        return PUT(store, name, content)

    def stop() -> bool:
        if trial.epoch(1) is not None:
            asked.set()
        return asked.is_set()

    monkeypatch.setattr(ObjectStore, "put", put)
    report = lambda record: told.append(record.epoch)  # noqa: E731
    ended = run(config, trial.path, tmp_path, report=report, stop=stop)
    assert (ended.outcome, told) == (Outcome.STOPPED, [1])
    machines.next_one(monkeypatch)
    again = trial_here()
    stored = again.outcome()
    assert stored is not None
    assert stored.outcome is Outcome.STOPPED
    assert len(list(again.checkpoint_dir.glob("*/manifest.json"))) == 1


@pytest.mark.parametrize("lost", ["weights/0001/model", "checkpoint/"])
def test_an_upload_that_fails_is_the_trials_failure_and_nothing_names_what_is_missing(
    config: Config, machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The epoch is not told; another machine goes on from what is there."""

    def put(store: ObjectStore, name: str, content: Any) -> str:
        if lost in name:
            raise StorageError("away")
        return PUT(store, name, content)

    told: list[int] = []
    report = lambda record: told.append(record.epoch)  # noqa: E731
    monkeypatch.setattr(ObjectStore, "put", put)
    with pytest.raises(StorageError, match="away"):
        run(config, trial_here().path, tmp_path, report=report)
    assert told == []
    names = machines.names()
    is_named = "s/trials/0001/epochs/0001.json" in names
    assert is_named == (lost == "checkpoint/")
    assert f"s/trials/0001/weights/0001/{MANIFEST}" in names or not is_named
    monkeypatch.setattr(ObjectStore, "put", PUT)
    machines.next_one(monkeypatch)
    again = trial_here()
    assert run(config, again.path, tmp_path, report=report).outcome is Outcome.FINISHED
    assert told == [1, 2]
    assert again.require_weights(again.kept_epochs()[0])


def test_heads_alone_send_their_encoder_once(
    tiny_encoder: Path,
    tiny_data: Path,
    machines: Machines,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two trials of one process; each kept epoch has it."""
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
        storage_of(folder).end(folder)  # as a worker that takes the next trial
    encoders = [name for name in machines.names() if name.endswith(ENCODER_FILE)]
    assert len(encoders) == 6
    (first,) = (name for name in sent if name.endswith(ENCODER_FILE))
    assert first.startswith("s/trials/0001/weights/")
    machines.next_one(monkeypatch)
    assert json.loads((trial_here().require_weights(3) / MANIFEST).read_text())["epoch"] == 3
