"""A sweep as an Optuna study: names, runs, times, intermediate values, states."""

from datetime import datetime
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from past_sweep import Past
from scored_sweep import BEGUN, scored_sweep
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.runs.query import find_trials
from mlflow_setup.schema import Outcome
from mlflow_setup.tracking.store import resolve_tracking
from search.reports.optuna_export import export_study


def test_the_command_writes_a_study_that_optuna_loads(tiny_data: Path, tmp_path: Path) -> None:
    folder = scored_sweep(tmp_path / "runs", tiny_data, num_trials=4)
    url = f"sqlite:///{tmp_path}/x.db"
    words = ["report", "demo", "--storage", str(tmp_path / "runs"), "--study", url]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"study demo: 4 trials in {url}\n"
    study = optuna.load_study(study_name="demo", storage=url)
    assert [trial.state for trial in study.trials] == [
        *(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE),
    ]
    run_ids = {run.trial: run.run_id for run in find_trials(resolve_tracking(tmp_path / "runs"))}
    history = folder.trial("0004").epochs()
    last = study.trials[3]
    assert last.user_attrs["trial"] == "0004"
    assert last.user_attrs["run_id"] == run_ids["0004"]
    assert last.datetime_start == datetime.fromtimestamp(BEGUN + 300)
    assert last.datetime_complete == datetime.fromtimestamp(BEGUN + 340)
    assert last.params == {
        key: folder.trial("0004").trial().config[key] for key in ("optim.lr", "loss.mnr.enabled")
    }
    values = [epoch.metrics["dev/overall"] for epoch in history]
    assert last.intermediate_values == {n: max(values[:n]) for n in (1, 2, 3)}
    assert last.value == max(values)
    assert study.trials[2].user_attrs["reason"] == "OSError: <b>no</b> space"
    assert study.best_trial.number in (0, 3)
    assert "dev/overall" in study.user_attrs["majority"]
    assert study.metric_names == ["dev/overall"]
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, ConfigError)
    assert "has a study 'demo' already" in str(again.exception)


def test_unfinished_trials_are_running_and_stopped_ones_are_waiting(tmp_path: Path) -> None:
    past = Past(tmp_path)
    past.trial("0001-b2", (0.5,), None, **{"optim.lr": 1e-3})
    past.trial("0002", (0.4, 0.6), Outcome.STOPPED, **{"optim.lr": 1e-3})
    url = f"sqlite:///{tmp_path}/x.db"
    assert export_study(past.folder, url, {}) == 2
    running, waiting = optuna.load_study(study_name="s", storage=url).trials
    assert (running.state, waiting.state) == (TrialState.RUNNING, TrialState.WAITING)
    assert running.intermediate_values == {1: 0.5}
    assert running.datetime_complete is None
    assert waiting.user_attrs["run_id"] is None


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////no/such/folder/x.db", "other://x"])
def test_an_empty_sweep_and_an_invalid_database_are_refused(tmp_path: Path, url: str) -> None:
    past = Past(tmp_path)
    with pytest.raises(NothingUsableError, match="sweep s has no trial yet"):
        export_study(past.folder, url, {})
    past.trial("0001-b2", (0.5,), None, **{"optim.lr": 1e-3})
    with pytest.raises(ConfigError, match="no database for a study"):
        export_study(past.folder, url, {})
