"""`ensweep delete`: deletes all of a sweep and nothing else; refused while it is in use."""

import json
from pathlib import Path

import pytest
from past_sweep import Past
from typer.testing import CliRunner, Result

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.filesystem.lease import Lease
from mlflow_setup.runs.deletion import local_artifacts, runs_of_sweep
from mlflow_setup.runs.ensemble_runs import log_ensemble
from mlflow_setup.runs.query import tracked_sweeps
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, TrialRecord
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from trainable.storage.trial_folder import TrialFolder


@pytest.fixture
def tracking(tmp_path: Path) -> Tracking:
    """Two sweeps, `s` and `other`, with one trial each, in folders and in MLflow."""
    tracking, past = resolve_tracking(tmp_path, None), Past(tmp_path)
    past.trial("0001", (0.5,), Outcome.FINISHED)
    other = TrialFolder(tmp_path / "other" / "trials" / "0001")
    other.create(TrialRecord("0001", "other", "b1", {"optim.lr": 0.1}, {}, 0, "f", None, 1e9))
    other.write_epoch(EpochRecord(1, {"dev/overall": 0.5}, {}, 1.0, 1e9))
    other.write_outcome(OutcomeRecord(Outcome.FINISHED, "", 1, 1e9))
    for sweep, trial in (("s", past.folder.trial("0001")), ("other", other)):
        mirror = Mirror(tracking, sweep)
        mirror.start({}, {})
        mirror.project(trial.snapshot())
        mirror.finish("FINISHED")
    return tracking


def delete(storage: Path, *words: str, answer: str = "") -> Result:
    given = ["delete", *words, "--storage", str(storage)]
    return CliRunner().invoke(app, given, input=answer)


def test_all_of_a_sweep_is_deleted_and_nothing_else(tracking: Tracking, tmp_path: Path) -> None:
    artifacts = [local_artifacts(run) for run in runs_of_sweep(tracking, "s")]
    there = [path for path in artifacts if path is not None and path.exists()]
    assert there
    planned = delete(tmp_path, "s", "--dry-run")
    assert "2 run(s) in MLflow" in planned.stdout
    assert "would be deleted" in planned.stdout
    assert (tmp_path / "s").is_dir()
    result = delete(tmp_path, "s", "--yes", "--json")
    content = json.loads(result.stdout)
    assert (content["sweep"], content["num_runs"], content["is_deleted"]) == ("s", 2, True)
    assert content["num_bytes"] > 0
    assert not (tmp_path / "s").exists()
    assert not any(path.exists() for path in there)
    assert tracked_sweeps(tracking) == ["other"]
    assert len(runs_of_sweep(tracking, "other")) == 2
    assert (tmp_path / "other" / "trials" / "0001" / "config.json").exists()


def test_without_an_answer_nothing_is_deleted(tracking: Tracking, tmp_path: Path) -> None:
    error = delete(tmp_path, "s").exception
    assert isinstance(error, ConfigError)
    assert error.fix == "add --yes to delete it"
    assert (tmp_path / "s").is_dir()


def test_a_running_sweep_is_not_deleted(
    tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_setup.filesystem.lease.BEAT_SECONDS", 0.05)
    for path in (tmp_path / "s", tmp_path / "s" / "trials" / "0001"):  # of the sweep, of a trial
        with Lease(path):
            error = delete(tmp_path, "s", "--yes").exception
        assert isinstance(error, ConfigError)
        assert "is being run by process" in str(error)
    assert len(runs_of_sweep(tracking, "s")) == 2


def test_a_sweep_with_a_member_of_a_registered_model_is_not_deleted(
    tracking: Tracking, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "ensemble.json").write_text("{}")
    run_id = log_ensemble(tracking, "reviews", bundle, {}, {}, {"sweeps": "other,s"})
    tracking.client.create_registered_model("reviews")
    tracking.client.create_model_version("reviews", (tmp_path / "bundle").as_uri(), run_id)
    error = delete(tmp_path, "s", "--yes").exception
    assert isinstance(error, ConfigError)
    assert "reviews version 1" in str(error)
    assert (tmp_path / "s").is_dir()


def test_folders_that_are_no_sweeps_are_not_deleted(tracking: Tracking, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("data", "nothing"):
        error = delete(tmp_path, name, "--yes").exception
        assert isinstance(error, NothingUsableError)
        assert "there are " in str(error)
    assert (tmp_path / "data").is_dir()
