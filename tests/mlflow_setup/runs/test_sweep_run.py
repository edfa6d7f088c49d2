"""The MLflow run of a sweep, and the mirror that projects trials below it."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from projected import START, artifacts, points, snapshot

from mlflow_setup.errors import ConfigError, PartialError
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import RUN_STATUS, Outcome, OutcomeRecord
from mlflow_setup.tracking.store import Tracking
from mlflow_setup.tracking.ui_view import View


def test_a_sweep_is_a_run_that_can_be_resumed(
    tracking: Tracking, sweep: str, tmp_path: Path
) -> None:
    (tmp_path / "sweep.yaml").write_text("num_samples: 4")
    mirror = Mirror(tracking, sweep)
    files = {"sweep.yaml": tmp_path / "sweep.yaml"}
    run_id = mirror.start({"sampler": "tpe"}, {"num_samples": 4}, files)
    run = tracking.client.get_run(run_id)
    assert run.info.run_name == sweep
    assert run.data.params == {"num_samples": "4"}
    assert run.data.tags.items() >= {"kind": "sweep", "sweep": sweep, "sampler": "tpe"}.items()
    assert artifacts(tracking, run_id) == {"sweep.yaml": "num_samples: 4"}
    mirror.finish("KILLED")
    assert Mirror(tracking, sweep).parent_status() == "KILLED"
    # resumed with other settings: params stay, tags change
    assert Mirror(tracking, sweep).start({"sampler": "random"}, {"num_samples": 9}) == run_id
    run = tracking.client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"num_samples": "4"}
    assert run.data.tags["sampler"] == "random"


def test_no_run_is_running_after_finish(tracking: Tracking, sweep: str, tmp_path: Path) -> None:
    mirror = Mirror(tracking, sweep)
    mirror.start({}, {})
    for number, outcome in enumerate([*Outcome, None, None]):
        mirror.project(snapshot(sweep, tmp_path, 1, outcome, trial=f"t{number}"))
    mirror.finish("FINISHED")
    assert tracking.search({"sweep": sweep}, status="RUNNING") == []
    states = [run.info.status for run in tracking.search({"sweep": sweep, "kind": "trial"})]
    assert sorted(states) == sorted([*RUN_STATUS.values(), "KILLED", "KILLED"])
    assert mirror.parent_status() == "FINISHED"
    # a late projection does not reopen the sweep
    mirror.project(snapshot(sweep, tmp_path, 2, Outcome.FINISHED, trial="t9"))
    assert mirror.parent_status() == "FINISHED"


def test_finish_writes_a_description_and_metrics(
    tracking: Tracking, sweep: str, tmp_path: Path
) -> None:
    mirror = Mirror(tracking, sweep)
    tags = {"searched": "optim.lr", "baselines": "majority", "description": "of a test"}
    run_id = mirror.start(tags, {})
    trial = snapshot(sweep, tmp_path, outcome=Outcome.FINISHED)
    config = {**trial.record.config, "data.dir": "/home/me/reviews"}
    mirror.project(replace(trial, record=replace(trial.record, config=config)))
    mirror.finish("FINISHED")
    run = tracking.client.get_run(run_id)
    (child,) = tracking.search({"sweep": sweep, "kind": "trial"})
    link = f"[t1](#/experiments/{tracking.experiment_id}/runs/{child.info.run_id})"
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith(f"**Best: {link}, overall 0.7000**\n\n1 trial: 1 finished.")
    assert f"| 1 | {link} | 0.7000 | 0.5000 | finished | 1e-05 |" in note
    assert run.data.metrics == {
        "best/dev/overall": 0.7,
        "best/dev/sentiment/accuracy": 0.5,
        "trials/finished": 1,
    }
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name == "reviews"
    mirror.start(tags, {})
    mirror.project(snapshot(sweep, tmp_path, 1, Outcome.PRUNED, trial="t2"))
    mirror.finish("KILLED")  # resumed, then stopped
    run = tracking.client.get_run(run_id)
    assert "2 trials: 1 finished, 1 pruned." in run.data.tags["mlflow.note.content"]
    assert [step for step, *_ in points(tracking, run_id, "best/dev/overall")] == [1, 2]


def test_a_deleted_run_is_created_again(tracking: Tracking, sweep: str, tmp_path: Path) -> None:
    mirror = Mirror(tracking, sweep)
    run_id = mirror.project(snapshot(sweep, tmp_path, 1))
    tracking.client.delete_run(run_id)
    assert not mirror.try_project(snapshot(sweep, tmp_path, 2))
    assert mirror.dirty == {"t1"}
    assert mirror.try_project(snapshot(sweep, tmp_path, 2))
    assert mirror.dirty == set()
    (run,) = tracking.search({"sweep": sweep, "trial": "t1"})
    assert run.info.run_id != run_id
    assert [step for step, *_ in points(tracking, run.info.run_id, "dev/overall")] == [1, 2]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a'b", "-a", "a b"])
def test_invalid_names_are_refused(tracking: Tracking, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        Mirror(tracking, name)
    with pytest.raises(ConfigError):
        Mirror(tracking, "sweep").project(snapshot("sweep", tmp_path, trial=name))


def test_a_trial_of_another_sweep_is_refused(tracking: Tracking, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="t1 is of the sweep 'other', not 'sweep'"):
        Mirror(tracking, "sweep").project(snapshot("other", tmp_path))


def test_a_failed_start_is_repeated_with_the_next_trial(
    tracking: Tracking,
    sweep: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("tag")

    mirror = Mirror(tracking, sweep)
    monkeypatch.setattr("mlflow_setup.runs.sweep_run.save_view", broken)
    assert not mirror.try_start({}, {"sampler": "tpe"}, {}, View(("best/dev/overall",), ()))
    assert f"MLflow has missed sweep {sweep}: " in caplog.text
    monkeypatch.undo()
    assert mirror.try_project(snapshot(sweep, tmp_path, 1))
    (parent,) = tracking.search({"kind": "sweep", "sweep": sweep})
    assert (parent.info.status, parent.data.params["sampler"]) == ("RUNNING", "tpe")


def test_trials_missed_in_an_outage_are_remembered_and_logged_once(
    sweep: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = Mirror(Tracking("http://user:s3cret@127.0.0.1:9"), sweep)
    with pytest.raises(PartialError, match="refused"):
        mirror.start({}, {})
    with caplog.at_level(logging.WARNING):
        assert not mirror.try_project(snapshot(sweep, tmp_path, 1))
        assert not mirror.try_project(snapshot(sweep, tmp_path, 2, trial="t2"))
    assert mirror.dirty == {"t1", "t2"}
    warnings = [entry for entry in caplog.records if entry.name == "mlflow_setup.runs.sweep_run"]
    assert len(warnings) == 1
    assert "MLflow has missed trial t1" in warnings[0].getMessage()
    assert "s3cret" not in caplog.text
    with pytest.raises(PartialError, match="refused"):
        mirror.finish("FINISHED")


def test_no_run_ends_before_its_start_whatever_the_clocks(
    tracking: Tracking, sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R18: one process starts the sweep and the trial, another with a clock that is behind ends
    them."""
    trial = snapshot(sweep, tmp_path)
    mirror = Mirror(tracking, sweep)
    mirror.start({}, {})
    run_id = mirror.project(trial)
    monkeypatch.setattr("mlflow_setup.runs.sweep_run.time.time", lambda: START - 3600)
    ended = OutcomeRecord(Outcome.FINISHED, "", 3, START - 3600)
    mirror.project(replace(trial, outcome=ended))
    mirror.finish("FINISHED")
    runs = [tracking.client.get_run(run_id), *tracking.search({"sweep": sweep, "kind": "sweep"})]
    assert len(runs) == 2
    for run in runs:
        assert run.info.end_time == run.info.start_time
