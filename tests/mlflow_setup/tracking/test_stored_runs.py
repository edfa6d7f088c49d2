"""Runs read from the database file equal those that MLflow returns."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mlflow_setup.errors import ConfigError
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from mlflow_setup.tracking.stored_runs import artifact_uri_of, read_runs


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """Runs of two kinds, with equal start times, one deleted, and one of another experiment."""
    tracking = resolve_tracking(tmp_path_factory.mktemp("storage"))
    client = tracking.client
    for number, start in enumerate((30, 10, 10, 20, 40)):
        tags = {"kind": "odd" if number % 2 else "even", "text": "a'b"}
        run = client.create_run(tracking.experiment_id, start_time=start, tags=tags)
        for step, value in enumerate((0.25, float("nan"), float("inf"))[: number + 1]):
            client.log_metric(run.info.run_id, f"m{step}", value, step=1)
            client.log_metric(run.info.run_id, "last", step / 8, step=step)
        client.log_param(run.info.run_id, "optim.lr", str(number))
        if number == 3:
            client.set_terminated(run.info.run_id, "FINISHED")
        if number == 4:
            client.delete_run(run.info.run_id)
    other = client.create_experiment("other")
    client.create_run(other, start_time=5, tags={"kind": "even"})
    return tracking


def described(runs: list[Any]) -> list[str]:
    """Runs as text, so that NaN equals itself."""
    return [
        repr((run.info.run_id, run.info.status, run.info.start_time, run.info.artifact_uri))
        + repr([sorted(dict(part).items()) for part in (run.data.params, run.data.metrics)])
        + repr(sorted((key, run.data.tags[key]) for key in run.data.tags))
        for run in runs
    ]


@pytest.mark.parametrize("status", [None, "RUNNING", "FINISHED", "KILLED"])
@pytest.mark.parametrize("tags", [{}, {"kind": "even"}, {"kind": "odd"}, {"kind": "none"}])
def test_runs_read_from_the_file_equal_those_of_mlflow(
    tracking: Tracking, tags: dict[str, str], status: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = described(tracking.search(tags, status))
    monkeypatch.setattr(Tracking, "search", lambda *_: pytest.fail("MLflow was used"))
    assert described(read_runs(tracking, tags, status)) == wanted


def test_artifact_uris_equal_those_of_mlflow(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tracking.search({})
    with monkeypatch.context() as patched:
        patched.delattr(Tracking, "client")
        own = Tracking(tracking.uri)
        assert [artifact_uri_of(own, run.info.run_id) for run in runs] == [
            run.info.artifact_uri for run in runs
        ]
    with pytest.raises(Exception, match="not found"):  # MLflow's own
        artifact_uri_of(tracking, "0" * 32)


def test_a_folder_without_a_database_has_no_runs(tmp_path: Path) -> None:
    assert read_runs(resolve_tracking(tmp_path / "none"), {"kind": "odd"}) == []
    assert not (tmp_path / "none").exists()


def test_mlflow_is_used_when_the_tables_are_unknown_or_remote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(Tracking, "search", lambda *given: calls.append(given) or [])
    tracking = resolve_tracking(tmp_path)
    assert tracking.database is not None
    with closing(sqlite3.connect(tracking.database)) as connection, connection:
        connection.execute("CREATE TABLE experiments (name, other)")
    assert read_runs(tracking, {"kind": "odd"}) == []
    assert read_runs(Tracking("http://127.0.0.1:9"), {"kind": "odd"}) == []
    assert len(calls) == 2


def test_an_invalid_database_and_an_invalid_tag_are_errors(tmp_path: Path) -> None:
    tracking = resolve_tracking(tmp_path)
    assert tracking.database is not None
    tracking.database.write_bytes(b"not a database" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        read_runs(tracking, {"kind": "odd"})
    with pytest.raises(ConfigError, match="cannot be the kind of a run"):
        read_runs(tracking, {"kind": "a' or 'b"})
