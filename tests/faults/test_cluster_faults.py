"""Ray clusters that lose nodes, end, drop messages or run many trials."""

import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
from drivers import Driver, assert_whole, epoch_files
from fake_sweep import make_train, sweep_of
from fault_table import Table
from patience import PATIENCE
from ray.cluster_utils import Cluster
from recovery import AGAIN, RECOVERED, Blow, blows_on, blows_to_all, nodes_at_work, num_epochs_again
from scale import how_often
from shared_memory import left_in_shared_memory, shared_memory

from mlflow_setup.schema import Outcome
from mlflow_setup.tracking.store import resolve_tracking
from search.driver.sweep import resume_sweep
from search.storage.sweep_folder import SweepFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.rare(
        "test_submitted_sweep.py removes a node, test_identity.py kills workers and a driver"
    ),
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that runs no trials, and two nodes with one CPU each. Epochs take a second."""
    monkeypatch.setenv("SECONDS_AN_EPOCH", "1")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.promise(
    "R2", "a node is removed hard", "whole; its trial runs again elsewhere within 15 s"
)
@pytest.mark.parametrize("number", range(how_often(1, 17)))
def test_r2_trials_of_a_lost_node_continue_on_another(
    tmp_path: Path, tiny_data: Path, cluster: Cluster, table: Table, number: int
) -> None:
    num_removed, blows = 3, list[Blow]()
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, "scheduler.name=none", RAY_ADDRESS=cluster.address)
    for lost in range(num_removed):
        driver.wait_for_epochs(2 + 6 * lost)
        driver.wait_for(functools.partial(nodes_at_work, cluster))
        node = nodes_at_work(cluster)[-1]
        blows += blows_on(node)
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1)
    driver.finish(240)
    assert set(assert_whole(tmp_path, 7).values()) == {Outcome.FINISHED}
    table.played(num_removed)
    hit = [blow for blow in blows if blow.has_hit()]
    table.measured(RECOVERED, [blow.seconds_to_recover() for blow in hit], within=15)
    table.measured(AGAIN, num_epochs_again(blows), unit="epochs", within=1)


@pytest.mark.promise("R5", "the cluster is gone; `resume` on another", "whole")
@pytest.mark.parametrize("number", range(how_often(1, 10)))
def test_r5_a_sweep_is_resumed_on_another_cluster(
    tmp_path: Path, tiny_data: Path, cluster: Cluster, table: Table, number: int
) -> None:
    sweep_of(tmp_path, tiny_data)
    address = {"RAY_ADDRESS": cluster.address}
    driver = Driver("run", tmp_path, **address)
    driver.wait_for_epochs(1)
    cluster.shutdown()
    driver.kill()
    storage, blows, since = tmp_path / "runs", blows_to_all(tmp_path), time.time()
    resume_sweep("s", storage, resolve_tracking(storage), train=make_train())
    assert_whole(tmp_path, 7)
    table.measured(RECOVERED, [blow.seconds_to_recover(since) for blow in blows])
    table.measured(AGAIN, num_epochs_again(blows), unit="epochs", within=1)


PUSH = "CoreWorkerService.grpc_client.PushTask"
LEASE = "NodeManagerService.grpc_client.RequestWorkerLease"
LOST_MESSAGES: list[tuple[list[str], int, int]] = [
    ([PUSH, LEASE], 10, 10), ([PUSH], 20, 0), ([PUSH], 0, 20), ([LEASE], 30, 0), ([LEASE], 0, 30),
]  # fmt: skip
"""Ray's methods, and the percentages of their requests and responses that are lost."""


@pytest.mark.promise("R19", "a tenth of the messages that carry Ray's tasks is lost", "whole")
@pytest.mark.parametrize(("methods", "requests", "responses"), LOST_MESSAGES[: how_often(1, 5)])
def test_r19_lost_messages(
    tmp_path: Path, tiny_data: Path, methods: list[str], requests: int, responses: int
) -> None:
    """At most four messages of each method are lost."""
    sweep_of(tmp_path, tiny_data)
    lost = {"num_failures": 4, "req_failure_prob": requests, "resp_failure_prob": responses}
    failures = json.dumps(dict.fromkeys(methods, lost))
    Driver("run", tmp_path, RAY_testing_rpc_failure=failures).finish(240)
    assert_whole(tmp_path, 7)


@pytest.mark.promise(
    "R25",
    "many trials of 1 s each; at the nightly count in three sweeps side by side",
    "each driver grows by at most 50 MB and leaks no open files; no process and no shared "
    "memory is left",
)
def test_r25_many_trials_leak_no_resources(tmp_path: Path, tiny_data: Path, table: Table) -> None:
    num_sweeps, before = how_often(1, 3), shared_memory()
    num_trials = how_often(100, 1000) // num_sweeps
    table.played(num_trials * num_sweeps)
    more = ("scheduler.name=none", f"search.num_samples={num_trials}", "train.num_epochs=1")
    drivers = []
    for number in range(num_sweeps):
        folder = tmp_path / f"of-{number}"
        folder.mkdir()
        sweep_of(folder, tiny_data)
        drivers.append(Driver("run", folder, *more, SECONDS_AN_EPOCH="1"))
    early = [usage_after(driver, num_trials // 3) for driver in drivers]
    late = [usage_after(driver, num_trials - 2) for driver in drivers]
    started = [child for driver in drivers for child in driver.processes()[1:]]
    growth = [(after[0] - first[0]) / 1e6 for first, after in zip(early, late, strict=True)]
    new_files = [max(0, after[1] - first[1]) for first, after in zip(early, late, strict=True)]
    table.measured("the driver grew by", growth, unit="MB", within=50)
    table.measured("files opened for good:", new_files, unit="files", within=10)
    for driver in drivers:
        driver.finish(300)
        trials = SweepFolder(driver.folder / "runs", "s").trial_folders()
        ended = [outcome.outcome for trial in trials if (outcome := trial.outcome()) is not None]
        assert ended == [Outcome.FINISHED] * num_trials
    assert max(growth) < 50
    assert max(new_files) <= 10
    _, alive = psutil.wait_procs(started, timeout=PATIENCE)
    assert alive == []
    assert left_in_shared_memory(before) == []


def usage_after(driver: Driver, num_trials: int) -> tuple[int, int]:
    """A driver's memory in bytes and number of open files, after this number of its trials."""
    process = psutil.Process(driver.process.pid)
    driver.wait_for(lambda: len(epoch_files(driver.folder)) >= num_trials, seconds=3000)
    return process.memory_info().rss, process.num_fds()
