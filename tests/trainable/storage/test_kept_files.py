"""A trial's weights, checkpoints and temporary files: written, deleted, and never through links."""

import shutil
from pathlib import Path

import pytest
from trial_records import RECORD, predictions, write_weights

from mlflow_setup.errors import IntegrityError
from mlflow_setup.filesystem.manifest import MANIFEST
from mlflow_setup.filesystem.storage import TEMPORARY
from mlflow_setup.schema import Outcome, OutcomeRecord
from trainable.storage.trial_folder import TrialFolder


def test_weights_are_written_atomically(trial: TrialFolder) -> None:
    assert trial.require_weights(3) == trial.path / "weights" / "0003"
    assert {path.name for path in trial.weights_dir(3).iterdir()} == {"model.safetensors", MANIFEST}

    def write_half(folder: Path) -> None:
        write_weights(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        trial.keep_weights(2, write_half)
    assert trial.kept_epochs() == [1, 3]
    assert {path.name for path in (trial.path / "weights").iterdir()} == {"0001", "0003"}


def test_damaged_weights_are_refused(trial: TrialFolder) -> None:
    (trial.weights_dir(3) / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match=r"0003: weights are damaged: .*model.safetensors"):
        trial.require_weights(3)
    with pytest.raises(IntegrityError, match=r"0002: weights are damaged: manifest.json is miss"):
        trial.require_weights(2)


def test_weights_can_be_written_again_and_deleted(trial: TrialFolder) -> None:
    trial.keep_weights(3, lambda folder: (folder / "other").touch())
    assert {path.name for path in trial.require_weights(3).iterdir()} == {"other", MANIFEST}
    for epoch in (1, 2, 3, 3):
        trial.drop_weights(epoch)
    assert trial.kept_epochs() == []


def test_the_encoder_is_written_once(trial: TrialFolder) -> None:
    trial.keep_encoder(lambda folder: (folder / "config.json").touch())
    trial.keep_encoder(lambda folder: pytest.fail("written again"))
    assert [path.name for path in trial.encoder_dir.iterdir()] == ["config.json"]


def test_dropping_checkpoints_deletes_their_folder(trial: TrialFolder) -> None:
    (trial.checkpoint_dir / "00000001").mkdir(parents=True)
    trial.drop_checkpoint()
    trial.drop_checkpoint()
    assert not trial.checkpoint_dir.exists()
    assert not list(trial.path.glob(f"{TEMPORARY}*"))


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_forget_after_keeps_the_epochs_up_to_the_given_one(trial: TrialFolder, epoch: int) -> None:
    trial.forget_after(epoch)
    assert [record.epoch for record in trial.epochs()] == list(range(1, epoch + 1))
    assert [decision.epoch for decision in trial.decisions()] == list(range(1, epoch + 1))
    assert trial.kept_epochs() == [kept for kept in (1, 3) if kept <= epoch]
    names = {path.name for path in (trial.path / "predictions").iterdir()}
    assert names == {f"{number:04d}.parquet" for number in range(1, epoch + 1)}
    assert trial.trial().trial == "t1"


def test_forget_after_removes_temporary_files_only(trial: TrialFolder) -> None:
    for name in (".", "epochs", "weights", "predictions"):
        (trial.path / name / f"{TEMPORARY}file").touch()
        (trial.path / name / f"{TEMPORARY}folder" / "below").mkdir(parents=True)
    (trial.path / "epochs" / "notes.json").touch()
    (trial.path / "predictions" / "notes.parquet").touch()
    trial.forget_after(3)
    assert not list(trial.path.rglob(f"{TEMPORARY}*"))
    assert (trial.path / "epochs" / "notes.json").exists()
    assert len(trial.epochs()) == 3
    assert len(trial.snapshot().predictions) == 3


def test_the_snapshot_has_records_predictions_and_weights(
    trial: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = OutcomeRecord(Outcome.PRUNED, "rung 2", 2, 5.0)
    trial.write_outcome(ended)
    monkeypatch.chdir(trial.path.parent)
    snapshot = TrialFolder(Path("t1")).snapshot()
    assert snapshot.record == trial.trial()
    assert snapshot.epochs == tuple(trial.epochs())
    assert snapshot.outcome == ended
    assert list(snapshot.predictions) == [f"000{n}.parquet" for n in (1, 2, 3)]
    assert all(path.is_file() for path in snapshot.predictions.values())
    assert snapshot.weights_uri == str((trial.path / "weights").resolve())
    assert Path(snapshot.weights_uri).is_absolute()
    assert snapshot.kept_epochs == (1, 3)


def test_predictions_are_not_written_through_a_link(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path / "t1")
    trial.create(RECORD)
    (tmp_path / "outside").mkdir()
    (trial.path / "predictions").symlink_to(tmp_path / "outside")
    with pytest.raises(IntegrityError, match="is not a path inside"):
        trial.write_predictions(1, [predictions("mood")])
    assert not list((tmp_path / "outside").iterdir())


def test_links_are_neither_followed_nor_uploaded(trial: TrialFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for name in ("0002.parquet", "0009.parquet", "0009.json", "0009/model", f"{TEMPORARY}x/file"):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).touch()
    before = sorted(outside.rglob("*"))
    folder = trial.path / "predictions"
    (folder / "mood").symlink_to(outside)
    (folder / "0004.parquet").symlink_to(outside / "0009.parquet")
    (trial.path / "more").symlink_to(outside)
    assert list(trial.snapshot().predictions) == [f"000{n}.parquet" for n in (1, 2, 3)]
    trial.forget_after(1)
    assert [record.epoch for record in trial.epochs()] == [1]
    shutil.rmtree(trial.path / "epochs")
    shutil.rmtree(trial.path / "weights")
    for name in ("epochs", "weights"):
        (trial.path / name).symlink_to(outside)
    for change in (
        lambda: trial.forget_after(1),
        lambda: trial.drop_weights(9),
        lambda: trial.keep_weights(9, write_weights),
        lambda: trial.require_weights(9),
    ):
        with pytest.raises(IntegrityError, match=r"'weights/0009' is not a path inside"):
            change()
    assert sorted(outside.rglob("*")) == before
