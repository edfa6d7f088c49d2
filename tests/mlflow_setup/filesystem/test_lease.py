"""Leases: a second driver is refused, a dead one is replaced, wall clocks are not used."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from filelock import FileLock
from patience import wait_until

from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem import lease as leases
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.filesystem.lease import Lease, read_lease, running_driver


@pytest.fixture(autouse=True)
def _short_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)


def record(lease: Lease, **changes: Any) -> str:
    """The content of the lease's file when another driver holds it."""
    return json.dumps(asdict(replace(lease.mine, token="other", **changes)))


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_driver_is_refused_naming_host_process_and_start(tmp_path: Path) -> None:
    with Lease(tmp_path) as first:
        with pytest.raises(ConfigError) as caught, Lease(tmp_path):
            pass
        message = str(caught.value)
        for part in (f"process {os.getpid()} on {first.mine.host}", first.mine.since, "Ctrl-C"):
            assert part in message
    assert read_lease(first.path) is None
    with Lease(tmp_path):
        pass


def test_a_dead_driver_on_this_machine_is_replaced_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for its counter to stop."""
    watched: list[object] = []
    monkeypatch.setattr(Lease, "watch", lambda self, holder: watched.append(holder))
    lease = Lease(tmp_path, stale_seconds=60)
    lease.path.write_text(record(lease, pid=dead_process()))
    with lease:
        assert watched == []
        found = read_lease(lease.path)
        assert found is not None
        assert found.token == lease.mine.token


@pytest.mark.parametrize("change", ["namespace", "no namespace"])
def test_a_process_number_of_another_namespace_does_not_mean_a_dead_driver(
    tmp_path: Path, change: str
) -> None:
    """Two containers, or two machines called localhost, share a storage folder."""
    lease, pid = Lease(tmp_path, stale_seconds=20), dead_process()
    assert "pid:[" in lease.mine.namespace
    namespace = "" if change == "no namespace" else f"{lease.mine.namespace[:-2]}0]"
    lease.path.write_text(record(lease, pid=pid, namespace=namespace))

    is_over = threading.Event()

    def beat() -> None:
        counter = 0
        while not is_over.wait(0.1):
            counter += 1
            content = record(lease, pid=pid, namespace=namespace, counter=counter)
            write_atomic(lease.path, content)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(ConfigError, match=f"process {pid} on "), lease:
            pass
        assert running_driver(tmp_path) is not None
    finally:
        is_over.set()
        beating.join()


@pytest.mark.parametrize("since", ["1999-01-01 00:00:00", "2999-01-01 00:00:00"])
def test_a_driver_on_another_host_is_replaced_once_its_counter_has_stopped(
    tmp_path: Path, since: str
) -> None:
    """R18: regardless of its wall clock."""
    lease = Lease(tmp_path, stale_seconds=0.4)
    lease.path.write_text(record(lease, host="elsewhere", since=since))
    started = time.monotonic()
    with lease:
        assert time.monotonic() - started >= 0.4


def test_a_driver_whose_lease_was_taken_over_is_interrupted(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    other = record(lease)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    with lease:
        lease.path.write_text(other)
        with pytest.raises(KeyboardInterrupt):
            wait_in_steps(30)
    signal.signal(signal.SIGINT, before)
    assert lease.is_lost
    assert lease.path.read_text() == other  # the lease of the other driver is kept


def test_a_driver_that_was_paused_does_not_release_its_successors_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 60.0)  # it ends before the next beat
    lease = Lease(tmp_path)
    other = record(lease)
    with lease:
        lease.path.write_text(other)
    assert lease.path.read_text() == other


def test_a_heartbeat_waits_for_a_takeover(tmp_path: Path) -> None:
    """No other process can write between the read and the write of the lease."""
    lease = Lease(tmp_path)
    lease.on_lost = lambda: None
    other = record(lease)
    with lease:
        with FileLock(f"{lease.path}.lock"):
            lease.path.write_text(other)
            time.sleep(0.3)  # several heartbeats
            assert lease.path.read_text() == other
            assert not lease.is_lost
        wait_until(lambda: lease.is_lost)
    assert lease.path.read_text() == other


def wait_in_steps(seconds: float) -> None:
    """The main thread is interrupted between two steps."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.05)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}', '{"token": "x"}'])
def test_a_damaged_lease_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / "lease.json").write_text(content)
    with Lease(tmp_path):
        pass


def test_one_of_several_concurrent_drivers_gets_the_lease(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mlflow_setup.filesystem import lease\n"
        "with lease.Lease(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    drivers = [
        subprocess.Popen(command, env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        for _ in range(4)
    ]
    wait_until(lambda: sum(driver.poll() is not None for driver in drivers) == 3)
    outputs = [driver.communicate() for driver in drivers]  # closing its stdin ends it
    assert sum(out == b"held\n" for out, _ in outputs) == 1
    assert sum(b"is being run by" in err for _, err in outputs) == 3


def test_a_folder_that_cannot_be_written_to_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match=r"lease.json: cannot be written"),
        Lease(tmp_path / "file"),
    ):
        pass
