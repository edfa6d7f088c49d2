"""R6, R15: a tracking server that dies or stays away costs no training, and loses no record."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from drivers import Driver, assert_whole
from fake_sweep import sweep_of
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.mirror import Mirror
from mlflow_setup.projection import EPOCH_SECONDS
from mlflow_setup.runs import find_trials
from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, TrialRecord, TrialSnapshot
from mlflow_setup.server import server_command
from mlflow_setup.tracking import Tracking, resolve_tracking

pytestmark = pytest.mark.slow


class Server:
    """`mlflow server` on an SQLite file, to be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        tracking = Tracking(f"sqlite:///{folder / 'server.db'}")
        tracking.check()
        self.command, self.environment = server_command(tracking, port=self.port)

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health"):
                return
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def test_r6_a_server_that_dies_for_a_while(tmp_path: Path, tiny_data: Path, server: Server) -> None:
    sweep_of(tmp_path, tiny_data)
    environment = {"MLFLOW_TRACKING_URI": server.uri, "SECONDS_AN_EPOCH": "1"}
    driver = Driver("run", tmp_path, "scheduler.name=none", **environment)
    driver.wait_for_epochs(2)
    server.kill()
    down = time.monotonic()
    driver.wait_for_epochs(12)
    seconds = time.monotonic() - down
    print(f"R6: 10 epochs of 1 s, two at a time, in {seconds:.1f} s without a server")
    server.start()
    code, text = driver.end()
    assert code == 0, text
    assert "MLflow has missed" in text
    assert_whole(tmp_path, 7, Tracking(server.uri))


def test_r6_a_server_that_stays_away_and_a_sync_that_catches_up(
    tmp_path: Path, tiny_data: Path, server: Server
) -> None:
    sweep_of(tmp_path, tiny_data)
    driver = Driver("run", tmp_path, MLFLOW_TRACKING_URI=server.uri)
    driver.wait_for_epochs(2)
    server.kill()
    code, text = driver.end()
    assert code == 4, text
    server.start()
    words = ["sync", "s", "--storage", str(tmp_path / "runs"), "--tracking-uri", server.uri]
    for _ in range(2):  # as often as one likes
        assert CliRunner().invoke(app, words).exit_code == 0
        assert_whole(tmp_path, 7, Tracking(server.uri))


def test_r15_eight_sweeps_write_into_one_database(tmp_path: Path) -> None:
    """No error, no lost row: 8 writers, 25 trials of 2 epochs each."""
    uri = resolve_tracking(tmp_path).uri
    resolve_tracking(tmp_path).check()
    missed: list[str] = []

    def write(number: int) -> None:
        mirror = Mirror(Tracking(uri), f"sweep-{number}")
        mirror.start({}, {})
        for trial in range(25):
            if not mirror.try_project(_snapshot(f"sweep-{number}", f"{trial:04d}")):
                missed.append(f"{number} {trial}")
        mirror.finish("FINISHED")

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert missed == []
    tracking = Tracking(uri)
    for number in range(8):
        runs = find_trials(tracking, f"sweep-{number}")
        assert len(runs) == 25
        for run in runs:
            points = tracking.client.get_metric_history(run.run_id, EPOCH_SECONDS)
            assert [point.step for point in points] == [1, 2]


def _snapshot(sweep: str, trial: str) -> TrialSnapshot:
    record = TrialRecord(trial, sweep, "b3", {}, {}, 0, "data", None, 1e9)
    epochs = tuple(EpochRecord(n, {"dev/overall": n / 10}, {}, 1.0, 1e9 + n) for n in (1, 2))
    ended = OutcomeRecord(Outcome.FINISHED, "ran 2 epochs", 2, 1e9 + 3)
    return TrialSnapshot(record, epochs, ended, {}, "", ())
