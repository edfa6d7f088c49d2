"""R6, R15: outages of a tracking server, and concurrent writers of its database."""

import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from drivers import ROOT, Driver, assert_whole, longest_stall
from fake_sweep import sweep_of
from fault_table import Table
from scale import how_often
from servers import Proxy, Server
from typer.testing import CliRunner
from write_runs import write_runs

from ensweep.cli.app import app
from mlflow_setup.runs.projection import EPOCH_SECONDS
from mlflow_setup.runs.query import find_trials
from mlflow_setup.tracking.store import Tracking, resolve_tracking

pytestmark = pytest.mark.slow

STALL = "the longest stall was"


@pytest.mark.promise(
    "R6",
    "the MLflow server is killed for a while",
    "training stalls at most 1 s; whole once it is back",
)
@pytest.mark.rare("test_background_mirror.py has a server that comes back")
@pytest.mark.parametrize("number", range(how_often(1, 16)))
def test_r6_the_server_is_killed_and_restarted(
    tmp_path: Path, tiny_data: Path, server: Server, table: Table, number: int
) -> None:
    sweep_of(tmp_path, tiny_data)
    environment = {"MLFLOW_TRACKING_URI": server.uri, "SECONDS_AN_EPOCH": "1"}
    driver = Driver("run", tmp_path, "scheduler.name=none", **environment)
    driver.wait_for_epochs(2)
    server.kill()
    down = time.monotonic()
    driver.wait_for_epochs(12 if number == 0 else random.Random(number).randint(8, 24))
    seconds = time.monotonic() - down
    server.start()
    text = driver.finish()
    assert "MLflow has missed" in text
    assert_whole(tmp_path, 7, Tracking(server.uri))
    table.measured(STALL, [longest_stall(tmp_path, 1)], within=1)
    table.measured("without a server for", [seconds])


@pytest.mark.promise(
    "R6",
    "the MLflow server is killed for good",
    "training stalls at most 1 s, exit 4; whole after `ensweep sync`, run twice",
)
@pytest.mark.rare("test_ui_server.py has a mirror that catches up with a real server")
@pytest.mark.parametrize("number", range(how_often(1, 16)))
def test_r6_sync_catches_up_after_the_server_was_killed(
    tmp_path: Path, tiny_data: Path, server: Server, table: Table, number: int
) -> None:
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, MLFLOW_TRACKING_URI=server.uri)
    driver.wait_for_epochs(2 + number)
    server.kill()
    code, text = driver.end()
    assert code == 4, text
    table.measured(STALL, [longest_stall(tmp_path, 0)], within=1)
    server.start()
    words = ["sync", "s", "--storage", str(tmp_path / "runs"), "--tracking-uri", server.uri]
    for _ in range(2):
        assert CliRunner().invoke(app, words).exit_code == 0
        assert_whole(tmp_path, 7, Tracking(server.uri))


@pytest.mark.promise(
    "R6",
    "the MLflow server's answers take 0.5, 3 and 15 s",
    "training stalls at most 1 s; whole, if need be after `ensweep sync`",
)
@pytest.mark.rare("test_background_mirror.py has a slow server")
@pytest.mark.parametrize("delay", [0.5, 3.0, 15.0] * how_often(1, 6))
def test_r6_a_slow_server(
    tmp_path: Path, tiny_data: Path, server: Server, table: Table, delay: float
) -> None:
    sweep_of(tmp_path, tiny_data)
    with Proxy(server.port, delay) as proxy:
        uri = f"http://127.0.0.1:{proxy.port}"
        driver = Driver("run", tmp_path, MLFLOW_TRACKING_URI=uri, SECONDS_AN_EPOCH="0.5")
        driver.wait_for_epochs(2)
        proxy.slow.set()
        code, text = driver.end(300)
    assert code in (0, 4), text
    table.measured(STALL, [longest_stall(tmp_path, 0.5)], within=1)
    words = ["sync", "s", "--storage", str(tmp_path / "runs"), "--tracking-uri", server.uri]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert_whole(tmp_path, 7, Tracking(server.uri))


@pytest.mark.promise(
    "R15", "8 threads write 25 trials of 2 epochs each into one SQLite file", "no row missing"
)
def test_r15_eight_threads_write_into_one_database(tmp_path: Path) -> None:
    tracking = resolve_tracking(tmp_path)
    tracking.check()
    with ThreadPoolExecutor(8) as pool:
        written = [
            pool.submit(write_runs, tracking.uri, f"sweep-{number}", 25, 2, num_tasks=0)
            for number in range(8)
        ]
    assert all(each.result() for each in written)
    assert_complete(tracking, num_epochs=2, num_metrics=1)


@pytest.mark.promise(
    "R15", "8 processes write 500 batches of 27 metrics each into one SQLite file", "no row missing"
)
@pytest.mark.rare("the test above has eight threads")
def test_r15_eight_processes_write_into_one_database(tmp_path: Path, table: Table) -> None:
    tracking = resolve_tracking(tmp_path)
    tracking.check()
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "write_runs.py"), tracking.uri]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    writers = [
        subprocess.Popen([*command, f"sweep-{number}", "25", "20"], env=environment)
        for number in range(8)
    ]
    assert [writer.wait(500) for writer in writers] == [0] * 8
    table.measured("written in", [time.monotonic() - started])
    assert_complete(tracking, num_epochs=20, num_metrics=27)


def assert_complete(tracking: Tracking, num_epochs: int, num_metrics: int) -> None:
    """Each of the eight sweeps has 25 runs with all epochs."""
    for number in range(8):
        runs = find_trials(tracking, f"sweep-{number}")
        assert len(runs) == 25
        for run in runs:
            points = tracking.client.get_metric_history(run.run_id, EPOCH_SECONDS)
            assert [point.step for point in points] == list(range(1, num_epochs + 1))
            assert len(run.metrics) >= num_metrics
