"""The commands `ensweep sync`, `gc` and `ui`."""

import os
from pathlib import Path

import pytest
from click.testing import Result
from past_sweep import Past
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError, NothingUsableError, PartialError
from mlflow_setup.filesystem.lease import Lease
from mlflow_setup.runs.query import find_trials
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, TrialRecord
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from trainable.storage.trial_folder import TrialFolder

ENDED = {"finished": Outcome.FINISHED, "pruned": Outcome.PRUNED}


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    return resolve_tracking(tmp_path_factory.mktemp("tracking"), None)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def write_trial(storage: Path, sweep: str, trial: str, outcome: Outcome | None) -> TrialFolder:
    """A trial of two epochs, as training writes it."""
    folder = TrialFolder(storage / sweep / "trials" / trial)
    folder.create(TrialRecord(trial, sweep, "b1", {"optim.lr": 0.1}, {}, 0, "f00d", None, 1e9))
    for number in (1, 2):
        folder.write_epoch(EpochRecord(number, {"dev/overall": 0.5}, {}, 1.0, 1e9 + number))
    if outcome is not None:
        folder.write_outcome(OutcomeRecord(outcome, "so it ended", 2, 1e9 + 3))
    return folder


def statuses(tracking: Tracking, sweep: str) -> dict[str, str]:
    return {record.trial: record.status for record in find_trials(tracking, sweep)}


def sync(tracking: Tracking, storage: Path, *sweep: str) -> Result:
    return run("sync", *sweep, "--storage", str(storage), "--tracking-uri", tracking.uri)


def test_sync_of_a_sweep_that_mlflow_has_missed(tracking: Tracking, tmp_path: Path) -> None:
    for name, outcome in ENDED.items():
        write_trial(tmp_path, "missed", name, outcome)
    for _ in range(2):  # the second time changes nothing
        result = sync(tracking, tmp_path, "missed")
        assert result.exception is None
        assert "missed: 2 of 2 trials are in MLflow" in result.stdout
        assert statuses(tracking, "missed") == {"finished": "FINISHED", "pruned": "FINISHED"}
        for record in find_trials(tracking, "missed"):
            history = tracking.client.get_metric_history(record.run_id, "dev/overall")
            points = [(point.step, point.timestamp) for point in history]
            assert points == [(1, 1_000_000_001_000), (2, 1_000_000_002_000)]
        assert Mirror(tracking, "missed").parent_status() == "FINISHED"


@pytest.mark.parametrize("has_folder", [True, False])
def test_sync_does_not_end_a_running_sweep(
    tracking: Tracking, tmp_path: Path, has_folder: bool
) -> None:
    """Nor a trial that began after `sync` had listed the folders."""
    sweep = f"running-{has_folder}"
    mirror = Mirror(tracking, sweep)
    mirror.start({}, {})
    write_trial(tmp_path, sweep, "ended", Outcome.FINISHED)
    storage = tmp_path if has_folder else tmp_path / "other"
    mirror.project(write_trial(storage, sweep, "open", None).snapshot())
    with Lease(tmp_path / sweep):
        assert sync(tracking, tmp_path, sweep).exception is None
    assert statuses(tracking, sweep) == {"ended": "FINISHED", "open": "RUNNING"}
    assert Mirror(tracking, sweep).parent_status() == "RUNNING"


def test_sync_of_a_sweep_whose_driver_is_gone_leaves_nothing_running(
    tracking: Tracking, tmp_path: Path
) -> None:
    Mirror(tracking, "gone").start({}, {})
    write_trial(tmp_path, "gone", "open", None)
    assert sync(tracking, tmp_path, "gone").exception is None
    assert statuses(tracking, "gone") == {"open": "KILLED"}


def test_gc_lists_files_and_deletes_them(tracking: Tracking, tmp_path: Path) -> None:
    past = Past(tmp_path)
    past.trial("0001", (0.5,), Outcome.FAILED)
    weights = past.folder.trial("0001").path / "weights" / "0001" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"x" * 2_000_000)
    words = ["gc", "s", "--storage", str(tmp_path), "--tracking-uri", tracking.uri]
    result = run(*words, "--dry-run")
    assert f"      2.0 MB  {weights.parents[1]}  weights of a trial that failed" in result.stdout
    assert "2.0 MB  would be deleted" in result.stdout
    assert weights.exists()
    assert "2.0 MB  were deleted" in run(*words).stdout
    assert not weights.exists()
    (found,) = find_trials(tracking, "s")
    assert found.tags["kept_epochs"] == ""
    with Lease(past.folder.path):
        refused = run(*words).exception
    assert isinstance(refused, ConfigError)
    assert "is being run by" in str(refused)


@pytest.mark.parametrize("status", ["FINISHED", "KILLED"])
def test_sync_of_an_ended_sweep_leaves_nothing_running(
    tracking: Tracking, tmp_path: Path, status: str
) -> None:
    sweep = f"over-{status.lower()}"
    mirror = Mirror(tracking, sweep)
    mirror.start({}, {})
    mirror.finish(status)
    write_trial(tmp_path, sweep, "left", None)
    assert sync(tracking, tmp_path, sweep).exception is None
    assert statuses(tracking, sweep) == {"left": "KILLED"}
    assert Mirror(tracking, sweep).parent_status() == status


def test_a_sweep_with_a_stopped_trial_is_killed_not_finished(
    tracking: Tracking, tmp_path: Path
) -> None:
    write_trial(tmp_path, "stopped", "t1", Outcome.FINISHED)
    write_trial(tmp_path, "stopped", "t2", Outcome.STOPPED)
    assert sync(tracking, tmp_path, "stopped").exception is None
    assert Mirror(tracking, "stopped").parent_status() == "KILLED"


def test_sync_takes_the_latest_sweep(tracking: Tracking, tmp_path: Path) -> None:
    for number, name in enumerate(["b-latest", "c-old", "a-old"]):
        write_trial(tmp_path, name, "t1", Outcome.FINISHED)
        time = 2_000_000 - number
        os.utime(tmp_path / name / "trials", (time, time))
    result = sync(tracking, tmp_path)
    assert result.stdout == "b-latest: 1 of 1 trials are in MLflow\n"


def test_trials_that_cannot_be_synced_are_reported_and_the_others_are_synced(
    tracking: Tracking, tmp_path: Path
) -> None:
    write_trial(tmp_path, "partly", "t1", Outcome.FINISHED)
    damaged = write_trial(tmp_path, "partly", "t2", Outcome.FINISHED)
    (damaged.path / "config.json").write_text("{")
    write_trial(tmp_path, "partly", "t3", Outcome.FINISHED)
    result = sync(tracking, tmp_path, "partly")
    assert isinstance(result.exception, PartialError)
    assert result.exception.exit_code == 4
    assert "sweep partly: not in MLflow: 1 of 3 trials\n  t2: " in str(result.exception)
    assert "run ensweep sync partly --storage " in str(result.exception)
    assert statuses(tracking, "partly") == {"t1": "FINISHED", "t3": "FINISHED"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["none"], NothingUsableError, "no sweep 'none' in"),
        ([], NothingUsableError, "no sweep in"),
        (["../outside"], ConfigError, "outside"),
    ],
)
def test_sync_of_a_missing_or_invalid_sweep_is_refused(
    tracking: Tracking,
    tmp_path: Path,
    arguments: list[str],
    error: type[Exception],
    message: str,
) -> None:
    result = sync(tracking, tmp_path, *arguments)
    assert isinstance(result.exception, error)
    assert message in str(result.exception)


def test_sync_reports_a_server_that_does_not_answer(tmp_path: Path) -> None:
    write_trial(tmp_path, "away", "t1", Outcome.FINISHED)
    result = sync(Tracking("http://user:s3cret@127.0.0.1:9"), tmp_path, "away")
    assert isinstance(result.exception, ConfigError)
    assert "http://***@127.0.0.1:9" in str(result.exception)
    assert "s3cret" not in str(result.exception) + result.output


def test_ui_prints_the_address_of_a_tracking_server(tmp_path: Path) -> None:
    result = run("ui", "--storage", str(tmp_path), "--tracking-uri", "http://u:s3cret@host:5000")
    assert result.exception is None
    assert result.stdout == "http://***@host:5000\n"


def test_ui_starts_a_server_for_the_storage_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    result = run("ui", "--storage", str(tmp_path), "--port", "5123")
    assert result.exception is None
    assert "http://127.0.0.1:5123" in result.stderr
    ((_, command, environment),) = calls
    assert command[command.index("--port") + 1] == "5123"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"


def test_sync_restores_a_sweeps_run_from_its_file(tmp_path: Path) -> None:
    past, tracking = Past(tmp_path), resolve_tracking(tmp_path / "new")
    past.trial("0001-b2", (0.5, 0.6, 0.7, 0.8), Outcome.FINISHED)
    assert sync(tracking, tmp_path, "s").exception is None
    (found,) = tracking.search({"kind": "sweep", "sweep": "s"})
    assert found.data.params["search.num_samples"] == "6"
    (artifact,) = tracking.client.list_artifacts(found.info.run_id)
    assert artifact.path == "sweep.yaml"
    assert found.info.status == "FINISHED"


def test_a_partly_synced_sweep_is_finished_once_all_of_it_is_synced(tmp_path: Path) -> None:
    past = Past(tmp_path, search={"num_samples": 2})
    tracking = resolve_tracking(tmp_path / "new")
    for name in ("0001-b2", "0002"):
        past.trial(name, (0.5, 0.6, 0.7, 0.8), Outcome.FINISHED)
    config = past.folder.trial("0002").path / "config.json"
    whole = config.read_text()
    config.write_text("{")
    assert isinstance(sync(tracking, tmp_path, "s").exception, PartialError)
    assert Mirror(tracking, "s").parent_status() == "KILLED"
    config.write_text(whole)
    assert sync(tracking, tmp_path, "s").exception is None
    assert Mirror(tracking, "s").parent_status() == "FINISHED"
