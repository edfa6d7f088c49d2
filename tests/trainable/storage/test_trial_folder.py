import contextlib
import dataclasses
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.filesystem.atomic import TEMPORARY
from mlflow_setup.filesystem.manifest import MANIFEST
from mlflow_setup.schema import (
    OVERALL,
    UNKNOWN_DATA,
    Decision,
    EpochRecord,
    Outcome,
    OutcomeRecord,
    TrialRecord,
)
from trainable.config.tasks import Kind
from trainable.storage.predictions import Predictions, read_predictions
from trainable.storage.trial_folder import TrialFolder

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


def changed_record(**changes: object) -> str:
    return json.dumps(json.loads(RECORD.to_json()) | changes)


def epoch_record(epoch: int) -> EpochRecord:
    return EpochRecord(epoch, {OVERALL: 0.5}, {OVERALL: 0.25}, 1.0, float(epoch), ("flag",))


def predictions(task: str = "sentiment") -> Predictions:
    outputs = np.arange(6, dtype=np.float32).reshape(3, 2)
    return Predictions(task, Kind.CLASSIFICATION, "dev", ("a", "b", "c"), outputs, None, "d", "t")


def write_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")


@pytest.fixture
def trial(tmp_path: Path) -> TrialFolder:
    """A trial with three epochs, their predictions, and the weights of the first and last."""
    folder = TrialFolder(tmp_path / "t1")
    folder.create(RECORD)
    for epoch in (1, 2, 3):
        folder.write_predictions(epoch, [predictions(), predictions("mood")])
        folder.write_epoch(epoch_record(epoch))
        folder.write_decision(Decision(epoch, "continue", f"reason {epoch}"))
    for epoch in (1, 3):
        folder.keep_weights(epoch, write_weights)
    return folder


def test_what_is_written_is_read(trial: TrialFolder) -> None:
    assert trial.trial() == dataclasses.replace(
        RECORD, config={**RECORD.config, "data.tasks": ["sentiment"]}
    )
    assert trial.epochs() == [epoch_record(epoch) for epoch in (1, 2, 3)]
    assert [decision.reason for decision in trial.decisions()] == [f"reason {n}" for n in (1, 2, 3)]
    assert trial.kept_epochs() == [1, 3]
    assert trial.outcome() is None
    path = trial.predictions_path(2)
    assert path == (trial.path / "predictions" / "0002.parquet").resolve()
    assert list(read_predictions(path)) == ["sentiment", "mood"]
    assert Predictions.read(path, "mood").ids == ("a", "b", "c")


def test_an_empty_folder_has_nothing(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path / "absent")
    assert (trial.epochs(), trial.decisions(), trial.kept_epochs()) == ([], [], [])
    assert trial.outcome() is None
    with pytest.raises(IntegrityError, match=r"config.json: no trial record: .*No such file"):
        trial.trial()
    assert not trial.path.exists()


def test_the_same_trial_is_entered_again_and_keeps_its_record(trial: TrialFolder) -> None:
    trial.create(dataclasses.replace(RECORD, start_time=99.0, git_revision="later"))
    assert trial.trial().start_time == 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {**RECORD.config, "optim.lr": 1e-3}}, r"optim.lr=0.0001, now 0.001\n"),
        (
            {"config": {"optim.lr": 1e-4, "model.revision": None}},
            r"data.tasks=\['sentiment'\], now",
        ),
        ({"config": {**RECORD.config, "seed": 1}}, "seed=0, now 1\n"),
        ({"data_fingerprint": "other"}, "the data has changed\n"),
        (
            {"config": {**RECORD.config, "optim.lr": 1, "model.revision": "x"}},
            "model.revision=None, now 'x'; optim.lr=0.0001, now 1\n",
        ),
    ],
)
def test_a_folder_of_another_trial_is_refused(
    trial: TrialFolder, changes: dict[str, object], message: str
) -> None:
    before = (trial.path / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=message) as refused:
        trial.create(dataclasses.replace(RECORD, **changes))  # type: ignore[arg-type]
    assert refused.value.fix == "choose another name or folder, or remove this one"
    assert str(trial.path) in refused.value.problem
    assert (trial.path / "config.json").read_bytes() == before


def test_a_setting_that_a_later_release_added_has_had_its_default(trial: TrialFolder) -> None:
    config = {**RECORD.config, "model.gradient_checkpointing": False}
    trial.create(dataclasses.replace(RECORD, config=config))
    with pytest.raises(ConfigError, match="gradient_checkpointing=False, now True"):
        trial.create(
            dataclasses.replace(RECORD, config={**config, "model.gradient_checkpointing": True})
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((content, "Invalid JSON") for content in ("", "{", "\0", "[" * 100_000)),
        *((content, "should be an object") for content in ("[]", "null", "5")),
        ("{}", "'trial': Field required"),
        ('{"trial": "t"}', "'sweep': Field required"),
        (RECORD.to_json().replace('"seed"', '"Seed"'), "'seed': Field required"),
        (RECORD.to_json()[:-2] + ', "unknown": 1}', "'unknown': Unexpected"),
        (RECORD.to_json()[:-2] + ', "\\u001b[2J": 1}', r"'\\x1b\[2J': Unexpected"),
        (changed_record(config=["optim.lr"]), "'config': Input should be an object"),
        (changed_record(trial=1), "'trial': Input should be a valid string"),
        (changed_record(seed="0"), "'seed': Input should be a valid integer"),
        (changed_record(notes={"dropped": "3"}), "'notes': 'dropped': Input should be a valid int"),
        (changed_record(start_time=float("nan")), "'start_time': Input should be a finite number"),
    ],
)
def test_a_damaged_trial_record_is_refused_by_name(
    trial: TrialFolder, content: str, message: str
) -> None:
    (trial.path / "config.json").write_text(content)
    for read in (trial.trial, lambda: trial.create(RECORD), trial.snapshot):
        with pytest.raises(IntegrityError, match=rf"config.json: no trial record: .*{message}"):
            read()


@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        lambda path: path.write_text(path.read_text()[:-5]),
        lambda path: path.write_bytes(b"\xff\x00"),
        lambda path: path.write_text(path.read_text().replace('"epoch": 2', '"epoch": 3')),
        lambda path: path.write_text(path.read_text().replace("0.5", "NaN")),
        lambda path: path.write_text(path.read_text().replace("0.5", '"0.5"')),
        lambda path: path.write_text("[" * 100_000),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_the_first_damaged_epoch_ends_the_list(
    trial: TrialFolder, harm: Callable[[Path], object]
) -> None:
    harm(trial.path / "epochs" / "0002.json")
    assert trial.epochs() == [epoch_record(1)]
    assert list(trial.snapshot().predictions) == ["0001.parquet"]


def test_damaged_decisions_are_left_out(trial: TrialFolder) -> None:
    (trial.path / "epochs" / "0001.decision.json").write_text("{")
    assert [decision.epoch for decision in trial.decisions()] == [2, 3]


@pytest.mark.parametrize("first", list(Outcome))
def test_only_a_stopped_outcome_is_replaced(tmp_path: Path, first: Outcome) -> None:
    trial = TrialFolder(tmp_path)
    for outcome in (first, Outcome.FINISHED):
        trial.write_outcome(OutcomeRecord(outcome, f"because {outcome}", 3, 1.0))
    found = trial.outcome()
    assert found is not None
    assert found.outcome is (Outcome.FINISHED if first is Outcome.STOPPED else first)
    assert found.reason == f"because {found.outcome}"


@pytest.mark.parametrize("content", ["", "{", '{"outcome": "lost"}', "[" * 50])
def test_a_damaged_outcome_is_none_and_may_be_written_again(tmp_path: Path, content: str) -> None:
    trial = TrialFolder(tmp_path)
    (tmp_path / "outcome.json").write_text(content)
    assert trial.outcome() is None
    trial.write_outcome(OutcomeRecord(Outcome.FAILED, "x", 0, 1.0))
    assert trial.outcome() is not None


@contextlib.contextmanager
def no_more_open_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_what_cannot_be_read_now_is_not_taken_for_missing(trial: TrialFolder) -> None:
    """A trial that has ended would be run again, and its epochs removed."""
    trial.write_outcome(OutcomeRecord(Outcome.FINISHED, "ran 3 epochs", 3, 1.0))
    for read in (trial.outcome, trial.epochs):
        with pytest.raises(OSError, match="Too many open files"), no_more_open_files():
            read()
    with pytest.raises(IntegrityError, match="Too many open files"), no_more_open_files():
        trial.trial()
    with pytest.raises(IntegrityError, match="cannot be read now"), no_more_open_files():
        trial.require_weights(3)
    assert len(trial.epochs()) == 3
    assert trial.outcome() is not None


def test_kept_weights_are_whole_or_not_there(trial: TrialFolder) -> None:
    assert trial.require_weights(3) == trial.path / "weights" / "0003"
    assert {path.name for path in trial.weights_dir(3).iterdir()} == {"model.safetensors", MANIFEST}

    def write_half(folder: Path) -> None:
        write_weights(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        trial.keep_weights(2, write_half)
    assert trial.kept_epochs() == [1, 3]
    assert {path.name for path in (trial.path / "weights").iterdir()} == {"0001", "0003"}


def test_damaged_weights_are_refused_by_name(trial: TrialFolder) -> None:
    (trial.weights_dir(3) / "model.safetensors").write_bytes(b"weighty")
    with pytest.raises(IntegrityError, match=r"0003: weights are not whole: .*model.safetensors"):
        trial.require_weights(3)
    with pytest.raises(IntegrityError, match=r"0002: weights are not whole: manifest.json is miss"):
        trial.require_weights(2)


def test_weights_may_be_written_again_and_dropped(trial: TrialFolder) -> None:
    trial.keep_weights(3, lambda folder: (folder / "other").touch())
    assert {path.name for path in trial.require_weights(3).iterdir()} == {"other", MANIFEST}
    for epoch in (1, 2, 3, 3):
        trial.drop_weights(epoch)
    assert trial.kept_epochs() == []


def test_the_encoder_is_written_once(trial: TrialFolder) -> None:
    trial.keep_encoder(lambda folder: (folder / "config.json").touch())
    trial.keep_encoder(lambda folder: pytest.fail("written again"))
    assert [path.name for path in trial.encoder_dir.iterdir()] == ["config.json"]


def test_drop_checkpoint(trial: TrialFolder) -> None:
    (trial.checkpoint_dir / "00000001").mkdir(parents=True)
    trial.drop_checkpoint()
    trial.drop_checkpoint()
    assert not trial.checkpoint_dir.exists()
    assert not list(trial.path.glob(f"{TEMPORARY}*"))


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_forget_after_leaves_the_epochs_up_to_there(trial: TrialFolder, epoch: int) -> None:
    trial.forget_after(epoch)
    assert [record.epoch for record in trial.epochs()] == list(range(1, epoch + 1))
    assert [decision.epoch for decision in trial.decisions()] == list(range(1, epoch + 1))
    assert trial.kept_epochs() == [kept for kept in (1, 3) if kept <= epoch]
    names = {path.name for path in (trial.path / "predictions").iterdir()}
    assert names == {f"{number:04d}.parquet" for number in range(1, epoch + 1)}
    assert trial.trial().trial == "t1"


def test_forget_after_removes_leftovers_and_nothing_else(trial: TrialFolder) -> None:
    for place in (".", "epochs", "weights", "predictions"):
        (trial.path / place / f"{TEMPORARY}file").touch()
        (trial.path / place / f"{TEMPORARY}folder" / "below").mkdir(parents=True)
    (trial.path / "epochs" / "notes.json").touch()
    (trial.path / "predictions" / "notes.parquet").touch()
    trial.forget_after(3)
    assert not list(trial.path.rglob(f"{TEMPORARY}*"))
    assert (trial.path / "epochs" / "notes.json").exists()
    assert len(trial.epochs()) == 3
    assert len(trial.snapshot().predictions) == 3


def test_the_snapshot_has_all_that_is_projected(
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


def test_a_folder_of_predictions_that_leads_out_is_refused(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path / "t1")
    trial.create(RECORD)
    (tmp_path / "outside").mkdir()
    (trial.path / "predictions").symlink_to(tmp_path / "outside")
    with pytest.raises(IntegrityError, match="is not a path inside"):
        trial.write_predictions(1, [predictions("mood")])
    assert not list((tmp_path / "outside").iterdir())


def test_nothing_is_sent_or_deleted_through_a_link(trial: TrialFolder, tmp_path: Path) -> None:
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


def test_records_are_read_without_torch() -> None:
    code = "import sys, trainable.storage.trial_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_trial_that_failed_before_it_read_its_data_may_be_entered_with_any(
    tmp_path: Path,
) -> None:
    trial = TrialFolder(tmp_path / "t1")
    failed = dataclasses.replace(RECORD, data_fingerprint=UNKNOWN_DATA)
    trial.create(failed)
    trial.create(failed)
    assert trial.trial() == failed
    trial.create(RECORD)
    assert trial.trial() == RECORD
    with pytest.raises(ConfigError, match="the data has changed"):
        trial.create(failed)
