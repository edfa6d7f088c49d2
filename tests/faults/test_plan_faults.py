"""`ensweep plan` reports faults before a sweep starts, planted one at a time."""

import re
import socket
from collections.abc import Iterator

import pytest
import ray
from fault_table import Table
from planned_sweep import PlannedSweep
from planted_faults import FOUND_BY_DRIVER, FOUND_BY_TASK, Fault

promise = pytest.mark.promise(
    "plan", "a fault that is planted before a sweep", "`ensweep plan` names it, within 60 s"
)
rare = pytest.mark.rare("test_plan.py has a forecast, and other faults are found before one")
NEED_FORECAST = ("a GPU that torch does not see", "a time limit that is too short")


@pytest.mark.promise("plan", "none: a valid sweep", "no false alarm, within 60 s")
@rare
def test_a_valid_sweep_is_forecast(planned: PlannedSweep, cluster: None, table: Table) -> None:
    code, output, seconds = planned.plan()
    assert code == 0, output
    assert not any(line.startswith("error") for line in output.splitlines())
    for words in ("drawn trial 1: ", "largest with ", "3 trials, at most 6 epochs", "GB free"):
        assert words in output
    table.measured("a plan took", [seconds], within=60)


@promise
@pytest.mark.parametrize(("fault", "pattern"), FOUND_BY_DRIVER.values(), ids=FOUND_BY_DRIVER.keys())
def test_the_driver_finds_a_fault(
    planned: PlannedSweep, table: Table, fault: Fault, pattern: str
) -> None:
    assert_reported(planned, table, fault, pattern)


@promise
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "pattern"),
    [
        pytest.param(*given, id=name, marks=rare if name in NEED_FORECAST else ())
        for name, given in FOUND_BY_TASK.items()
    ],
)
def test_a_task_on_a_node_finds_a_fault(
    planned: PlannedSweep, cluster: None, table: Table, fault: Fault, pattern: str
) -> None:
    assert_reported(planned, table, fault, pattern)


def assert_reported(planned: PlannedSweep, table: Table, fault: Fault, pattern: str) -> None:
    fault(planned)
    code, output, seconds = planned.plan()
    assert code in (2, 3, 5, 6), output
    assert re.search(pattern, output), output
    table.measured("a plan took", [seconds], within=60)


@promise
def test_a_cluster_that_does_not_respond_is_reported(
    planned: PlannedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # as in a new process
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # without a listener
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        code, output, _ = planned.plan()
    assert code == 2, output
    assert f"RAY_ADDRESS={address}" in output


@pytest.fixture(scope="module")
def cluster(no_ray: None) -> Iterator[None]:
    """Two CPUs, and a GPU that does not exist but that Ray offers."""
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
