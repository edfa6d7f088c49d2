"""A driver that stops, or refuses its sweep, before the first trial starts."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from past_sweep import sweep_of
from rich.console import Console

from mlflow_setup.errors import ConfigError, EnsweepError
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.runs.query import find_trials
from mlflow_setup.schema import AttemptRecord, Outcome, OutcomeRecord, TrialRecord
from mlflow_setup.tracking.store import resolve_tracking
from search.config.sweep_config import Budget
from search.driver.result import SweepResult
from search.driver.sweep import run_sweep
from search.storage.sweep_folder import SweepFolder
from trainable.config.config import Config

pytestmark = pytest.mark.usefixtures("fake_cluster")


def run(
    folder: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    during_preparation: Callable[[], object],
    budget: Budget,
) -> SweepResult:
    def prepare(*arguments: Any) -> None:
        is_stopping = arguments[-1]
        assert not is_stopping()
        during_preparation()
        assert is_stopping()

    monkeypatch.setattr("search.driver.run.prepare", prepare)
    sweep = sweep_of(folder, config={"data.dir": str(data)})
    sweep, storage = sweep.model_copy(update={"budget": budget}), folder / "runs"
    quiet = Console(quiet=True)
    return run_sweep(sweep, "s", storage, resolve_tracking(storage), console=quiet)


def test_sigterm_during_the_preparation_stops_the_sweep(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminate = partial(os.kill, os.getpid(), signal.SIGTERM)
    result = run(tmp_path, tiny_data, monkeypatch, terminate, Budget())
    assert result.stop == ("SIGTERM", 75)
    assert result.trials == ()
    assert not (result.folder / "stop").exists()
    (own,) = resolve_tracking(tmp_path / "runs").search({"kind": "sweep", "sweep": "s"})
    assert own.info.status == "KILLED"


def test_a_budget_used_up_during_the_preparation_stops_the_sweep(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spend() -> None:
        monkeypatch.setattr("search.driver.budget.CHECK_SECONDS", 0.0)

    result = run(tmp_path, tiny_data, monkeypatch, spend, Budget(max_hours=1e-9))
    assert result.stop == ("budget.max_hours=1e-09 is used up", 75)
    assert result.trials == ()


def test_usage_after_the_end_of_a_trial_is_tracked(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of a trial that the scheduler stops ends later, and then records its seconds."""
    start, storage = 1.79e9, tmp_path / "runs"

    def end_two() -> None:
        for name, seconds in (("0001", 30.0), ("0002", 5.0)):
            trial = SweepFolder(storage, "s").trial(name)
            facts = ("s", "b3", Config().flat(), {}, 0, "data", None, start)
            trial.create(TrialRecord(name, *facts))
            attempt = AttemptRecord("host", "local", 1.0, 0.0, 0.0, start, seconds, True)
            write_atomic(trial.path / "attempts" / "0001.json", attempt.to_json())
            trial.write_outcome(OutcomeRecord(Outcome.PRUNED, "rung 0", 0, start + 5))
        os.kill(os.getpid(), signal.SIGTERM)

    run(tmp_path, tiny_data, monkeypatch, end_two, Budget())
    runs = find_trials(resolve_tracking(storage), "s")
    assert {run.trial: run.metrics["used/trial_hours"] for run in runs} == {"0001": 30 / 3600}


REFUSALS = {
    "temporary folder": "TMPDIR",
    "cluster": "nothing answers",
    "device": "trials get no GPU",
    "preparation": "no such teacher",
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_sweep_leaves_its_name_free(
    refusal: str, tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an error is found before a trial starts, the same command can be given again."""
    preparation = Mock(side_effect=ConfigError("no such teacher"))
    monkeypatch.setattr("search.driver.run.prepare", preparation)
    config = {"data.dir": str(tiny_data)}
    if refusal == "temporary folder":
        monkeypatch.setenv("TMPDIR", "/proc/self/task")
        monkeypatch.setattr("tempfile.tempdir", "/proc/self/task")
    elif refusal == "cluster":
        no_cluster = Mock(side_effect=ConfigError("nothing answers"))
        monkeypatch.setattr("search.driver.run.cluster", no_cluster)
    elif refusal == "device":
        config["train.device"] = "cuda"
    storage, quiet = tmp_path / "runs", Console(quiet=True)
    tracking, sweep = resolve_tracking(storage), sweep_of(tmp_path, config=config)
    for _ in range(2):
        with pytest.raises(EnsweepError, match=REFUSALS[refusal]):
            run_sweep(sweep, "s", storage, tracking, console=quiet)
        assert not (storage / "s").exists()
        assert tracking.search({"kind": "sweep"}) == []
