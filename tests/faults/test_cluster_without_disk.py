"""A sweep that is submitted to three nodes with no disk in common: data, encoder and results lie in
an S3 store, the tracking server asks for a login, the cluster for a token."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose import Services
from drivers import assert_whole
from fault_table import Table
from patience import PATIENCE, wait_until
from real_sweep import end, ensweep
from recovery import AGAIN
from submitting import Cluster, started_cluster, submitted, sweep_file

from mlflow_setup.filesystem.object_store import ObjectStore
from mlflow_setup.filesystem.opening import storage_folder
from mlflow_setup.runs.query import find_trials
from mlflow_setup.schema import Outcome
from mlflow_setup.tracking.store import Tracking
from search.storage.sweep_folder import SweepFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.rare("its parts are played one by one; in memory, tests/mlflow_setup/filesystem"),
]

PLACE = "s3://mlflow/cluster"
NUM_EPOCHS = 12


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Services]:
    """What they take to be used is in the environment, of the nodes too."""
    services = Services()
    try:
        services.start()
        keys = services.environment("bucket")
        given = {name: keys[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        given |= {"AWS_ENDPOINT_URL": keys["MLFLOW_S3_ENDPOINT_URL"], "AWS_REGION": "us-east-1"}
        for name, value in (given | services.login).items():
            monkeypatch.setenv(name, value)
        yield services
    finally:
        services.end()


@pytest.fixture
def cluster(services: Services) -> Iterator[Cluster]:
    with started_cluster() as cluster:
        yield cluster


def num_epochs() -> list[int]:
    """Of each trial that has begun."""
    trials = SweepFolder(storage_folder(f"{PLACE}/runs"), "s").trial_folders()
    return [len(trial.epochs()) for trial in trials]


def epoch_records(store: ObjectStore) -> dict[str, str]:
    """The epochs that are in the store, and the mark of each record: another where the epoch was
    trained again."""
    entries = store.entries("runs/s/trials")
    return {
        name: entry.mark
        for name, entry in entries.items()
        if Path(name).parent.name == "epochs" and Path(name).stem.isdecimal()
    }


@pytest.mark.promise(
    "R2",
    "object store: a submitted sweep (tiny BERT; data, encoder and results in the store, token, "
    "logins): a node is removed hard, PostgreSQL below MLflow killed and started again",
    "whole, if need be after `ensweep sync`, run twice; no file is missing in MLflow",
)
def test_a_submitted_sweep_without_a_shared_disk(
    services: Services,
    cluster: Cluster,
    tmp_path: Path,
    tiny_encoder: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: Table,
) -> None:
    store = ObjectStore(PLACE)
    for name, folder in (("encoder", tiny_encoder), ("data", tiny_data)):
        for path in (path for path in folder.rglob("*") if path.is_file()):
            store.put(f"{name}/{path.relative_to(folder)}", path)
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "ours"))
    sweep = sweep_file(tmp_path, f"{PLACE}/encoder", f"{PLACE}/data", NUM_EPOCHS)
    place = ("--tracking-uri", services.uri, "--storage", f"{PLACE}/runs")
    process, began = submitted(cluster, sweep, *place), time.monotonic()
    wait_until(lambda: process.poll() is not None or sum(map(bool, num_epochs())) > 1)
    there = epoch_records(store)
    cluster.tell("remove")
    services.kill_database()
    before = sum(num_epochs())
    wait_until(lambda: process.poll() is not None or sum(num_epochs()) >= before + 4)
    services.start_database()
    text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, 4), text
    table.measured("took", [time.monotonic() - began])
    for _ in range(2):
        end(ensweep("sync", "s", *place))
    tracking, storage = Tracking(services.uri), storage_folder(f"{PLACE}/runs")
    ended = assert_whole(
        tmp_path, 3, tracking, num_epochs=NUM_EPOCHS, is_pretended=False, storage=storage
    )
    assert set(ended.values()) == {Outcome.FINISHED}
    trials = SweepFolder(storage, "s").trial_folders()
    num_lost = sum(len(trial.attempts()) - 1 for trial in trials)
    assert num_lost >= 1  # the node had one
    records = epoch_records(store)
    num_again = sum(records[name] != mark for name, mark in there.items())
    assert num_again <= num_lost  # of each trial that was under way on the node, at most one
    table.measured("kept", [len(records)], unit="epochs")
    table.measured("tries that the node took with it:", [num_lost], unit="")
    table.measured(AGAIN, [num_again], unit="epochs")
    for run in find_trials(tracking, "s"):
        files = tracking.client.list_artifacts(run.run_id, "predictions")
        assert len(files) == NUM_EPOCHS, run.trial
