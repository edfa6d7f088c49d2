"""Faults that would cost a sweep its money, planted one at a time: `ensweep plan` names each."""

import re
import socket
from collections.abc import Iterator

import pytest
import ray
from fault_table import Table
from planted_faults import BY_DRIVER, BY_TASK, Site

NUM_FAULTS, MUST_BE_CAUGHT = 40, 38


caught = pytest.mark.promise(
    "plan", "a fault that is planted before a sweep", "`ensweep plan` names it, within 60 s"
)


A_FORECAST = pytest.mark.rare("test_plan.py has a forecast, and other faults are found before one")


@pytest.mark.promise("plan", "none: a sound sweep", "no false alarm, within 60 s")
@A_FORECAST
def test_a_sound_sweep_is_forecast(site: Site, cluster: None, table: Table) -> None:
    code, output, seconds = site.plan()
    assert code == 0, output
    assert not any(line.startswith("error") for line in output.splitlines())
    for words in ("drawn trial 1: ", "largest with ", "3 trials, at most 6 epochs", "GB free"):
        assert words in output
    table.measured("a plan took", [seconds], within=60)


@caught
@pytest.mark.parametrize("fault", BY_DRIVER)
def test_what_the_driver_can_see(site: Site, table: Table, fault: str) -> None:
    plant, words = BY_DRIVER[fault]
    plant(site)
    code, output, seconds = site.plan()
    assert code in (2, 3, 5, 6), output
    assert re.search(words, output), output
    table.measured("a plan took", [seconds], within=60)


@caught
@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=A_FORECAST if "torch" in name or "hour" in name else ())
        for name in BY_TASK
    ],
)
def test_what_only_a_task_can_see(site: Site, cluster: None, table: Table, fault: str) -> None:
    plant, words = BY_TASK[fault]
    plant(site)
    code, output, seconds = site.plan()
    assert code in (2, 3, 5, 6), output
    assert re.search(words, output), output
    table.measured("a plan took", [seconds], within=60)


@caught
def test_a_cluster_that_does_not_answer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As to a process that has no cluster yet."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        code, output, _ = site.plan()
    assert code == 2, output
    assert f"RAY_ADDRESS={address}" in output


def test_there_are_enough_faults() -> None:
    """Each of the tables' rows is caught, so that two could go and the promise would stand."""
    assert len(BY_DRIVER) + len(BY_TASK) + 1 >= NUM_FAULTS
    assert MUST_BE_CAUGHT < NUM_FAULTS


@pytest.fixture(scope="module")
def cluster(no_ray: None) -> Iterator[None]:
    """Two CPUs, and a GPU that only Ray believes in."""
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
