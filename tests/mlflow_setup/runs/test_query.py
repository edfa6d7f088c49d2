import math
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlflow_setup.errors import ConfigError, IntegrityError, NothingUsableError
from mlflow_setup.runs.query import download, find_trials, latest_tracked_sweep, tracked_sweeps
from mlflow_setup.schema import Outcome
from mlflow_setup.tracking.store import Tracking, resolve_tracking


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """Two sweeps, with two trials and one trial; the alphabetically last is the older one."""
    tracking = resolve_tracking(tmp_path_factory.mktemp("storage"))
    add(tracking, 10, kind="sweep", sweep="zebra")
    add(tracking, 11, kind="trial", sweep="zebra", trial="z1", outcome="pruned")
    add(tracking, 12, kind="trial", sweep="zebra", trial="z2")
    add(tracking, 20, kind="sweep", sweep="ant")
    add(tracking, 21, kind="trial", sweep="ant", trial="a1", outcome="from the future")
    add(tracking, 30, kind="ensemble", sweep="ant")
    return tracking


def add(tracking: Tracking, start_time: int, **tags: str) -> str:
    run = tracking.client.create_run(tracking.experiment_id, start_time=start_time, tags=tags)
    return str(run.info.run_id)


def test_trials_of_one_sweep_or_all(tracking: Tracking) -> None:
    assert [run.trial for run in find_trials(tracking)] == ["z1", "z2", "a1"]
    assert [run.trial for run in find_trials(tracking, "zebra")] == ["z1", "z2"]
    assert find_trials(tracking, "unknown") == []


def test_a_record_has_the_last_value_of_each_metric(tracking: Tracking) -> None:
    run_id = find_trials(tracking, "zebra")[0].run_id
    for step, value in ((1, 0.5), (3, 0.7), (2, 0.6)):
        tracking.log(run_id, metrics={"best/dev/overall": value}, step=step, timestamp=step)
    tracking.log(run_id, params={"optim.lr": 0.1})
    first, second = find_trials(tracking, "zebra")
    assert (first.sweep, first.status, first.outcome) == ("zebra", "RUNNING", Outcome.PRUNED)
    assert first.params == {"optim.lr": "0.1"}
    assert first.tags["trial"] == "z1"
    assert first.overall == 0.7
    assert second.outcome is None
    assert math.isnan(second.overall)


def test_an_unknown_outcome_is_logged(tracking: Tracking, caplog: pytest.LogCaptureFixture) -> None:
    (run,) = find_trials(tracking, "ant")
    assert run.outcome is None
    assert f"run {run.run_id}: unknown outcome 'from the future'" in caplog.text


def test_the_latest_sweep_is_the_one_started_last(tracking: Tracking) -> None:
    assert tracked_sweeps(tracking) == ["ant", "zebra"]
    assert latest_tracked_sweep(tracking) == "ant"


def test_a_folder_without_sweeps_is_reported(tmp_path: Path) -> None:
    tracking = resolve_tracking(tmp_path / "runs")
    assert find_trials(tracking) == []
    with pytest.raises(
        NothingUsableError, match=r"no sweep is tracked at sqlite:.*\nfix: start one with ensweep"
    ):
        latest_tracked_sweep(tracking)
    assert not (tmp_path / "runs").exists()


def test_an_unreachable_server_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9: .*refused"):
        find_trials(Tracking("http://127.0.0.1:9"))


def test_local_artifacts_are_read_in_place(tracking: Tracking, tmp_path: Path) -> None:
    run_id = add(tracking, 40, kind="other")
    tracking.client.log_text(run_id, "content", "predictions/x/0001.parquet")
    path = download(tracking, run_id, "predictions/x/0001.parquet", tmp_path / "cache")
    assert path.read_text() == "content"
    assert tracking.database is not None
    assert path.is_relative_to(tracking.database.parent / "mlartifacts")
    assert not (tmp_path / "cache").exists()


def test_a_cached_file_needs_no_server(tmp_path: Path) -> None:
    cached = tmp_path / "abc" / "predictions" / "0001.parquet"
    cached.parent.mkdir(parents=True)
    cached.write_text("content")
    path = download(Tracking("http://127.0.0.1:9"), "abc", "predictions/0001.parquet", tmp_path)
    assert path.read_text() == "content"


def test_a_missing_artifact_is_reported(tracking: Tracking, tmp_path: Path) -> None:
    run_id = add(tracking, 41, kind="other")
    with pytest.raises(IntegrityError, match=f"run {run_id} has no artifact config.json"):
        download(tracking, run_id, "config.json", tmp_path)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "..\\x", "a\0b", "%2e%2e/x"])
def test_a_path_outside_the_run_is_refused(tracking: Tracking, tmp_path: Path, path: str) -> None:
    run_id = add(tracking, 42, kind="other")
    with pytest.raises(IntegrityError):
        download(tracking, run_id, path, tmp_path)


@pytest.mark.parametrize("run_id", ["", "..", "a/b", "a.b", "-a", "a\n", "x" * 257])
def test_an_invalid_run_id_is_refused(tracking: Tracking, tmp_path: Path, run_id: str) -> None:
    with pytest.raises(ConfigError, match="is not the id of a run"):
        download(tracking, run_id, "config.json", tmp_path)


class RemoteClient:
    """A client whose artifacts are on a server; records requests."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    def get_run(self, run_id: str) -> object:
        return SimpleNamespace(info=SimpleNamespace(artifact_uri=f"mlflow-artifacts:/1/{run_id}"))

    def download_artifacts(self, uri: str, *, dst_path: str, tracking_uri: str) -> str:
        run_id, path = uri.removeprefix("mlflow-artifacts:/1/").split("/")
        assert tracking_uri == "http://remote:1"
        self.requests.append(path)
        fetched = Path(dst_path) / path
        if path == "predictions":
            fetched.mkdir()
            for epoch in (1, 2):
                (fetched / f"{epoch:04d}.parquet").write_text(f"{run_id} {epoch}")
        else:
            fetched.write_text(path)
        return str(fetched)


def test_remote_artifacts_are_downloaded_once_and_by_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking, client = Tracking("http://remote:1", experiment=uuid.uuid4().hex), RemoteClient()
    vars(tracking)["client"] = client
    monkeypatch.setattr(
        "mlflow_setup.tracking.client.download_artifacts", client.download_artifacts
    )
    for _ in range(2):
        for epoch in (1, 2):
            path = download(tracking, "r", f"predictions/{epoch:04d}.parquet", tmp_path)
            assert path.read_text() == f"r {epoch}"
        assert download(tracking, "r", "config.json", tmp_path).read_text() == "config.json"
    assert client.requests == ["predictions", "config.json"]
    with pytest.raises(IntegrityError, match=r"run r has no artifact predictions/0003\.parquet"):
        download(tracking, "r", "predictions/0003.parquet", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r"]
