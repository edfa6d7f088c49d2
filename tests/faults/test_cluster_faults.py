"""Clusters that lose nodes, go away, drop messages or live long: `ray.cluster_utils.Cluster`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
from drivers import Driver, assert_whole, epoch_files
from fake_sweep import make_train, sweep_of
from ray.cluster_utils import Cluster

from mlflow_setup.schema import Outcome
from mlflow_setup.tracking import resolve_tracking
from search.history import SweepFolder
from search.sweep import resume_sweep

pytestmark = pytest.mark.slow

SCALE = int(os.environ.get("ENSWEEP_FAULTS_SCALE", "1"))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that runs no trials, and two nodes of one CPU, whose trials take a second an epoch."""
    monkeypatch.setenv("SECONDS_AN_EPOCH", "1")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_r2_a_node_is_lost_and_its_trials_go_on_elsewhere(
    tmp_path: Path, tiny_data: Path, cluster: Cluster
) -> None:
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, "scheduler.name=none", RAY_ADDRESS=cluster.address)
    for number in range(3 if SCALE > 1 else 1):
        driver.wait_for_epochs(2 + 6 * number)
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        cluster.add_node(num_cpus=1)
    code, text = driver.end(240)
    assert code == 0, text
    assert set(assert_whole(tmp_path, 7).values()) == {Outcome.FINISHED}
    trials = SweepFolder(tmp_path / "runs", "s").trial_folders()
    assert sum(len(trial.attempts()) - 1 for trial in trials) >= 1


def test_r5_the_cluster_is_gone_and_another_takes_over(
    tmp_path: Path, tiny_data: Path, cluster: Cluster
) -> None:
    sweep_of(tmp_path, tiny_data)
    address = {"RAY_ADDRESS": cluster.address}
    driver = Driver("run", tmp_path, **address)
    driver.wait_for_epochs(1)
    cluster.shutdown()
    driver.kill()
    storage = tmp_path / "runs"
    resume_sweep("s", storage, resolve_tracking(storage), train=make_train())
    assert_whole(tmp_path, 7)


def test_r19_messages_that_are_lost(tmp_path: Path, tiny_data: Path) -> None:
    """Of the messages that carry tasks and their results a tenth fails, up to four of a kind."""
    sweep_of(tmp_path, tiny_data)
    lost = {"num_failures": 4, "req_failure_prob": 10, "resp_failure_prob": 10}
    methods = ("CoreWorkerService", "PushTask"), ("NodeManagerService", "RequestWorkerLease")
    failures = json.dumps({f"{service}.grpc_client.{name}": lost for service, name in methods})
    code, text = Driver("run", tmp_path, RAY_testing_rpc_failure=failures).end(240)
    assert code == 0, text
    assert_whole(tmp_path, 7)


def test_r25_many_trials_leave_nothing_behind(tmp_path: Path, tiny_data: Path) -> None:
    """Driver memory grows by at most 50 MB, open files do not, no process stays."""
    num_trials = 1000 if SCALE >= 100 else 100 if SCALE > 1 else 60
    more = ("scheduler.name=none", f"search.num_samples={num_trials}", "train.num_epochs=1")
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, *more)
    process = psutil.Process(driver.process.pid)
    driver.wait_for(lambda: len(epoch_files(tmp_path)) >= num_trials // 3, seconds=900)
    before, files = process.memory_info().rss, process.num_fds()
    children = process.children(recursive=True)
    driver.wait_for(lambda: len(epoch_files(tmp_path)) >= num_trials - 2, seconds=1500)
    growth, new_files = process.memory_info().rss - before, process.num_fds() - files
    print(f"R25: {growth / 1e6:.1f} MB, {new_files} files more after {num_trials} trials")
    code, text = driver.end(300)
    assert code == 0, text
    assert growth < 50e6
    assert new_files <= 10
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    outcomes = [trial.outcome() for trial in SweepFolder(tmp_path / "runs", "s").trial_folders()]
    assert len(outcomes) == num_trials
    assert {json.dumps(o.outcome.value) for o in outcomes if o is not None} == {'"finished"'}
