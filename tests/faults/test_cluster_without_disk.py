"""A sweep submitted to three nodes without a shared disk: data, encoder and results are in an S3
store, the tracking server requires a login, and the cluster a token."""

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
    pytest.mark.rare(
        "other tests check its parts; tests/mlflow_setup/filesystem has a store in memory"
    ),
]

ROOT = "s3://mlflow/cluster"
NUM_EPOCHS = 12


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Services]:
    """Credentials are set in the environment, which the nodes inherit."""
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
    """The number of epochs of each trial that has begun."""
    trials = SweepFolder(storage_folder(f"{ROOT}/runs"), "s").trial_folders()
    return [len(trial.epochs()) for trial in trials]


def epoch_records(store: ObjectStore) -> dict[str, str]:
    """The epoch records in the store with their marks, which change if the epoch is repeated."""
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
    store = ObjectStore(ROOT)
    for name, folder in (("encoder", tiny_encoder), ("data", tiny_data)):
        for path in (path for path in folder.rglob("*") if path.is_file()):
            store.put(f"{name}/{path.relative_to(folder)}", path)
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path / "ours"))
    sweep = sweep_file(tmp_path, f"{ROOT}/encoder", f"{ROOT}/data", NUM_EPOCHS)
    options = ("--tracking-uri", services.uri, "--storage", f"{ROOT}/runs")
    process, began = submitted(cluster, sweep, *options), time.monotonic()
    wait_until(lambda: process.poll() is not None or sum(map(bool, num_epochs())) > 1)
    old_records = epoch_records(store)
    cluster.tell("remove")
    services.kill_database()
    before = sum(num_epochs())
    wait_until(lambda: process.poll() is not None or sum(num_epochs()) >= before + 4)
    services.start_database()
    text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, 4), text
    table.measured("took", [time.monotonic() - began])
    for _ in range(2):
        end(ensweep("sync", "s", *options))
    tracking, storage = Tracking(services.uri), storage_folder(f"{ROOT}/runs")
    outcomes = assert_whole(
        tmp_path, 3, tracking, num_epochs=NUM_EPOCHS, is_pretended=False, storage=storage
    )
    assert set(outcomes.values()) == {Outcome.FINISHED}
    trials = SweepFolder(storage, "s").trial_folders()
    num_lost = sum(len(trial.attempts()) - 1 for trial in trials)
    assert num_lost >= 1  # one ran on the node
    records = epoch_records(store)
    num_again = sum(records[name] != mark for name, mark in old_records.items())
    assert num_again <= num_lost  # at most one epoch of each trial on the node
    table.measured("kept", [len(records)], unit="epochs")
    table.measured("tries that the node took with it:", [num_lost], unit="")
    table.measured(AGAIN, [num_again], unit="epochs")
    for run in find_trials(tracking, "s"):
        files = tracking.client.list_artifacts(run.run_id, "predictions")
        assert len(files) == NUM_EPOCHS, run.trial
