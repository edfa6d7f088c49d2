"""A trial's folder: records are read as written; damaged ones are refused or ignored."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from trial_records import RECORD, epoch_record

from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.schema import UNKNOWN_DATA, Outcome, OutcomeRecord
from trainable.storage.predictions import Predictions, read_predictions
from trainable.storage.trial_folder import TrialFolder


def changed_record(**changes: object) -> str:
    return json.dumps(json.loads(RECORD.to_json()) | changes)


def test_records_are_read_as_written(trial: TrialFolder) -> None:
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


def test_an_absent_folder_has_no_records(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path / "absent")
    assert (trial.epochs(), trial.decisions(), trial.kept_epochs()) == ([], [], [])
    assert trial.outcome() is None
    with pytest.raises(IntegrityError, match=r"config.json: no trial record: .*No such file"):
        trial.trial()
    assert not trial.path.exists()


def test_a_resumed_trial_keeps_its_record(trial: TrialFolder) -> None:
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


def test_a_setting_that_the_record_lacks_has_its_default(trial: TrialFolder) -> None:
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
def test_a_damaged_trial_record_is_refused(trial: TrialFolder, content: str, message: str) -> None:
    (trial.path / "config.json").write_text(content)
    for read in (trial.trial, lambda: trial.create(RECORD), trial.snapshot):
        with pytest.raises(IntegrityError, match=rf"config.json: no trial record: .*{message}"):
            read()


@pytest.mark.parametrize(
    "damage",
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
def test_epochs_from_the_first_damaged_one_on_are_ignored(
    trial: TrialFolder, damage: Callable[[Path], object]
) -> None:
    damage(trial.path / "epochs" / "0002.json")
    assert trial.epochs() == [epoch_record(1)]
    assert list(trial.snapshot().predictions) == ["0001.parquet"]


def test_damaged_decisions_are_ignored(trial: TrialFolder) -> None:
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
def test_a_damaged_outcome_is_ignored_and_can_be_replaced(tmp_path: Path, content: str) -> None:
    trial = TrialFolder(tmp_path)
    (tmp_path / "outcome.json").write_text(content)
    assert trial.outcome() is None
    trial.write_outcome(OutcomeRecord(Outcome.FAILED, "x", 0, 1.0))
    assert trial.outcome() is not None


def test_a_temporary_read_error_is_raised(
    trial: TrialFolder, too_many_open_files: Callable[[], AbstractContextManager[None]]
) -> None:
    """If files counted as missing, a finished trial would be run again and its epochs removed."""
    trial.write_outcome(OutcomeRecord(Outcome.FINISHED, "ran 3 epochs", 3, 1.0))
    for read in (trial.outcome, trial.epochs):
        with pytest.raises(OSError, match="Too many open files"), too_many_open_files():
            read()
    with pytest.raises(IntegrityError, match="Too many open files"), too_many_open_files():
        trial.trial()
    with pytest.raises(IntegrityError, match="cannot be read now"), too_many_open_files():
        trial.require_weights(3)
    assert len(trial.epochs()) == 3
    assert trial.outcome() is not None


def test_records_are_read_without_torch() -> None:
    code = "import sys, trainable.storage.trial_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_trial_that_failed_before_reading_data_can_be_resumed_with_any(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path / "t1")
    failed = dataclasses.replace(RECORD, data_fingerprint=UNKNOWN_DATA)
    trial.create(failed)
    trial.create(failed)
    assert trial.trial() == failed
    trial.create(RECORD)
    assert trial.trial() == RECORD
    with pytest.raises(ConfigError, match="the data has changed"):
        trial.create(failed)
