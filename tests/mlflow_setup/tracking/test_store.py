import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.tracking import sqlite
from mlflow_setup.tracking.client import MlflowException
from mlflow_setup.tracking.store import Tracking, resolve_tracking, truncate

UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    return resolve_tracking(tmp_path_factory.mktemp("with a space and #"))


@pytest.fixture(autouse=True)
def _no_uri_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_embedded_default_is_an_absolute_file_in_the_storage_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracking = resolve_tracking(Path("runs"))
    assert tracking.uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking.database == tmp_path / "runs" / "mlflow.db"
    assert not (tmp_path / "runs").exists()  # resolving creates nothing


@pytest.mark.parametrize(
    ("argument", "environment", "expected"),
    [
        (None, None, "sqlite:////s/mlflow.db"),
        (None, "", "sqlite:////s/mlflow.db"),
        (None, "http://env:5000", "http://env:5000"),
        ("http://argument:5000", "http://env:5000", "http://argument:5000"),
        ("sqlite:////other/file.db", None, "sqlite:////other/file.db"),
    ],
)
def test_the_argument_precedes_the_environment_and_the_default(
    argument: str | None, environment: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if environment is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
    assert resolve_tracking(Path("/s"), argument).uri == expected


@pytest.mark.parametrize("storage", ["50%", "what?"])
def test_a_path_with_characters_special_in_uris_is_refused(storage: str) -> None:
    with pytest.raises(ConfigError, match="must not have % or"):
        resolve_tracking(Path(storage))


def test_searching_creates_nothing(tmp_path: Path) -> None:
    tracking = resolve_tracking(tmp_path / "runs")
    assert tracking.find_experiment() is None
    assert tracking.search({"kind": "trial"}) == []
    assert not (tmp_path / "runs").exists()


def test_artifacts_are_stored_beside_the_database(tracking: Tracking) -> None:
    tracking.check()
    run = tracking.client.create_run(tracking.experiment_id)
    tracking.client.log_text(run.info.run_id, "x", "note.txt")
    assert tracking.database is not None
    folder = tracking.database.parent / "mlartifacts" / run.info.run_id / "artifacts"
    assert (folder / "note.txt").read_text() == "x"


@pytest.mark.usefixtures("real_migrations")
def test_concurrent_calls_share_one_experiment(tmp_path: Path) -> None:
    def experiment_id(_: int) -> str:
        return resolve_tracking(tmp_path).experiment_id

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(experiment_id, range(4)))) == 1


def test_search_pages_through_all_runs(tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_setup.tracking.store._PAGE_SIZE", 2)
    for index in range(5):
        tracking.client.create_run(
            tracking.experiment_id,
            start_time=index + 1,
            tags={"group": "paged"},
            run_name=f"r{index}",
        )
    names = [run.info.run_name for run in tracking.search({"group": "paged"})]
    assert names == [f"r{index}" for index in range(5)]
    assert tracking.search({"group": "paged"}, status="FINISHED") == []


@pytest.mark.parametrize("value", ["a' or 'b", 'a"b', "a\\b", "a;b"])
def test_search_values_cannot_change_the_filter(tracking: Tracking, value: str) -> None:
    tracking.check()
    with pytest.raises(ConfigError, match="cannot be the sweep of a run"):
        tracking.search({"sweep": value})


def test_log_writes_json_truncates_tags_and_splits_requests(tracking: Tracking) -> None:
    run_id = tracking.client.create_run(tracking.experiment_id).info.run_id
    params = {"text": "3", "flag": True, "none": None, "list": [1, "a"], "lr": 1e-05}
    many = {f"p.{index:03d}": index for index in range(150)}
    tracking.log(run_id, params=params | many, tags={"long": "x" * 9000})
    data = tracking.client.get_run(run_id).data
    expected = {"text": "3", "flag": "true", "none": "null", "list": '[1, "a"]', "lr": "1e-05"}
    assert data.params == expected | {key: str(value) for key, value in many.items()}
    assert data.tags["long"] == truncate("x" * 9000)
    assert len(truncate("x" * 9000)) < 6000
    assert truncate("x" * 9000).endswith("...")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_log_refuses_metrics_that_are_not_finite(tracking: Tracking, value: float) -> None:
    run_id = tracking.client.create_run(tracking.experiment_id).info.run_id
    with pytest.raises(IntegrityError, match=r"metric bad at step 3 is .* not a finite number"):
        tracking.log(run_id, metrics={"good": 1.0, "bad": value}, step=3)
    assert tracking.client.get_run(run_id).data.metrics == {}


def test_a_deleted_experiment_is_reported(tmp_path: Path) -> None:
    tracking = resolve_tracking(tmp_path)
    tracking.client.delete_experiment(tracking.experiment_id)
    with pytest.raises(ConfigError, match="is deleted\nfix: mlflow experiments restore"):
        Tracking(tracking.uri).check()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (UNREACHABLE, r"http://127\.0\.0\.1:9: .*refused(.|\n)*fix: start the server"),
        ("./mlruns", "maintenance mode(.|\n)*fix: .* mlflow migrate-filestore"),
        ("foo://bar", "unsupported URI 'foo://bar'(.|\n)*fix: a tracking URI is"),
        ("sqlite:////proc/none/mlflow.db", "fix: make /proc/none and the file in it writable"),
        ("postgresql+nodriver://h/db", "MLflow tracking at postgresql"),
    ],
)
def test_check_reports_problem_and_fix(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_tracking(Path("unused"), uri).check()


def test_a_missing_database_driver_is_reported_with_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"fix: pip install 'ensweep\[postgres\]'"):
        resolve_tracking(Path("unused"), "postgresql://h/db").check()


@pytest.mark.parametrize(
    ("code", "fix"),
    [(401, "set MLFLOW_TRACKING_USERNAME and MLFLOW_"), (403, "ask the server's administrator")],
)
def test_an_authentication_error_says_how_to_log_in(code: int, fix: str) -> None:
    """MLflow's error for an unsuccessful response."""
    message = f"API request to endpoint /api/2.0/x failed with error code {code} != 200."
    with pytest.raises(ConfigError, match=f"fix: {fix}"), Tracking(UNREACHABLE).errors():
        raise MlflowException(message)


def test_check_refuses_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to look like one" * 100)
    with pytest.raises(ConfigError, match="file is not a database"):
        resolve_tracking(tmp_path).check()


def test_check_refuses_the_schema_of_another_mlflow_version(tmp_path: Path) -> None:
    tracking = resolve_tracking(tmp_path)
    tracking.check()
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'e58ba8279b5e'")
    connection.close()
    # a new URI, because mlflow caches stores by URI
    (tmp_path / "mlflow.db").rename(tmp_path / "older.db")
    with pytest.raises(ConfigError, match=r"schema(.|\n)*fix: .*mlflow db upgrade"):
        resolve_tracking(tmp_path, f"sqlite:///{tmp_path}/older.db").check()


def test_errors_contain_no_credentials(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError) as caught:
        Tracking("http://user:s3cret@127.0.0.1:9").check()
    assert "***@127.0.0.1:9" in str(caught.value)
    assert "s3cret" not in str(caught.value) + caplog.text
    assert caught.value.__suppress_context__  # nor does a traceback show them


def test_check_refuses_a_truncated_database_and_says_how_to_recreate_it(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 900,)] * 200)
    database.write_bytes(database.read_bytes()[:-40960])
    with pytest.raises(ConfigError, match="malformed") as caught:
        resolve_tracking(tmp_path).check()
    assert f"move {database} away, then run ensweep sync" in str(caught.value)


def test_check_reports_a_database_that_stays_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "WAIT_SECONDS", 0.1)
    tracking = resolve_tracking(tmp_path)
    tracking.check()
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConfigError, match="locked by a process of another user") as caught:
            resolve_tracking(tmp_path).check()
    assert "wait for it" in str(caught.value)
    resolve_tracking(tmp_path).check()


@pytest.mark.usefixtures("real_migrations")
def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    """A full disk may have left an empty file."""
    (tmp_path / "mlflow.db").touch()
    tracking = resolve_tracking(tmp_path)
    tracking.check()
    assert tracking.find_experiment() is not None
    assert not list(tmp_path.glob(".tmp-*"))


def test_an_unreachable_database_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own pauses between its ten tries add up to 102 seconds."""
    pauses: list[float] = []
    monkeypatch.setattr("mlflow.store.db.utils.time.sleep", pauses.append)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1"):
        Tracking("postgresql://me:secret@127.0.0.1:9/none").check()
    assert sum(pauses) < 1
