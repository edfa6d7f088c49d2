"""Attempts at a trial: exclusive, recorded, monitored, and stopped on request."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from patience import PATIENCE
from stores import URI, Machines

from mlflow_setup.errors import ConfigError, PartialError
from mlflow_setup.filesystem.object_store import ObjectStore
from mlflow_setup.filesystem.opening import storage_folder
from trainable.storage.system_samples import read_samples
from trainable.storage.trial_folder import TrialFolder
from trainable.tune import attempt as attempts
from trainable.tune.attempt import Attempt, Limits, last_stacks, listen, was_terminated

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(attempts, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(attempts, "_RECORD_SECONDS", 0.0)
    return tmp_path / "trials" / "0001"


def limits(tmp_path: Path) -> Limits:
    return Limits(tmp_path / "stop", wait_seconds=0.2, num_cpus=2.0, num_gpus=0.5, usd_per_hour=3.0)


def start(code: str, folder: Path) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Run the code, which has `folder`, in a process. Returns it and its output."""
    imports = "import sys, time; from pathlib import Path; from trainable.tune.attempt import *\n"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{imports}folder = Path(sys.argv[1])\n{code}", str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, process.stdout


def test_the_seconds_of_an_attempt_are_recorded_while_it_runs(folder: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    with Attempt(folder, limits(tmp_path)) as attempt:
        time.sleep(0.2)
        assert not attempt.should_stop()
        (during,) = TrialFolder(folder).attempts()
        time.sleep(0.2)
    (after,) = TrialFolder(folder).attempts()
    assert 0.2 <= during.seconds < during.seconds + 0.2 <= after.seconds
    assert after.seconds <= time.monotonic() - began
    assert (after.num_cpus, after.num_gpus, after.usd_per_hour) == (2.0, 0.5, 3.0)
    assert after.node_type == "local"
    with Attempt(folder, limits(tmp_path)):
        pass
    assert len(TrialFolder(folder).attempts()) == 2
    assert last_stacks(folder) is None


def test_system_metrics_are_sampled(folder: Path, tmp_path: Path) -> None:
    with Attempt(folder, limits(tmp_path)) as attempt:
        sum(number * number for number in range(10**6))
        attempt.should_stop()
    first, last = read_samples(folder / "attempts")
    assert first.wall_time <= last.wall_time
    assert set(last.values) == {
        "system/process_cpu_percentage",
        "system/process_memory_megabytes",
        "system/system_memory_usage_percentage",
    }
    assert first.values["system/process_cpu_percentage"] > 0
    assert last.values["system/process_memory_megabytes"] > 10
    (record,) = TrialFolder(folder).attempts()  # samples are in other files of its folder
    assert record.is_over


def test_samples_are_less_frequent_in_long_trials(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.0]
    monkeypatch.setattr(attempts.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(attempts, "_SAMPLE_DENSITY", 10)
    with Attempt(folder, limits(tmp_path)) as attempt:
        for _ in range(60):
            seconds[0] += 10
            attempt.should_stop()
    assert 15 < len(list(read_samples(folder / "attempts"))) < 40


def test_only_one_process_runs_a_trial(folder: Path, tmp_path: Path) -> None:
    other, output = start(
        "with Attempt(folder, Limits(Path('none'))):\n"
        "    print('started', flush=True); time.sleep(60)",
        folder,
    )
    assert output.readline() == b"started\n"
    with (
        pytest.raises(PartialError, match="0001: another process still runs it"),
        Attempt(folder, limits(tmp_path)),
    ):
        pass
    other.kill()  # which releases its lock
    other.wait()
    with Attempt(folder, limits(tmp_path)):
        pass


def test_the_stop_file_stops_an_attempt(folder: Path, tmp_path: Path) -> None:
    with Attempt(folder, limits(tmp_path)) as attempt:
        assert not attempt.should_stop()
        (tmp_path / "stop").touch()
        assert attempt.should_stop()


@pytest.fixture
def _own_sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    listen()
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_own_sigterm")
def test_sigterm_stops_an_attempt(folder: Path, tmp_path: Path) -> None:
    listen()
    with Attempt(folder, limits(tmp_path)) as attempt:
        assert not attempt.should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert was_terminated()
        assert attempt.should_stop()


def test_a_second_sigterm_ends_the_process_at_once(folder: Path, tmp_path: Path) -> None:
    """R7: regardless of what the trial is doing."""
    trial, output = start(
        "listen()\n"
        "with Attempt(folder, Limits(Path('none'))):\n"
        "    print('started', flush=True)\n"
        "    while not was_terminated(): time.sleep(0.01)\n"
        "    print('terminated', flush=True); time.sleep(600)",
        folder,
    )
    for line in (b"started\n", b"terminated\n"):
        assert output.readline() == line
        trial.send_signal(signal.SIGTERM)
    assert trial.wait(timeout=PATIENCE) == 75
    with Attempt(folder, limits(tmp_path)):
        pass  # the lock is free


def test_a_process_that_hangs_is_ended_and_its_stacks_are_stored(folder: Path) -> None:
    trial, _ = start(
        "def forever():\n"
        "    time.sleep(60)\n"
        "with Attempt(folder, Limits(Path('none'), max_silence_seconds=0.5)) as attempt:\n"
        "    with attempt.waiting(): time.sleep(1)\n"
        "    print('waited', flush=True); forever()",
        folder,
    )
    assert trial.communicate(timeout=PATIENCE)[0] == b"waited\n"
    assert trial.returncode == 1
    stacks = last_stacks(folder)
    assert stacks is not None
    assert "in forever" in stacks.read_text(encoding="utf-8")


def test_an_invalid_name_of_a_trial_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trial"):
        Attempt(tmp_path / "trials" / ".hidden", limits(tmp_path))


def test_uploads_of_records_do_not_block_an_attempt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Records that wait at the end are dropped, because the last one replaces them."""
    monkeypatch.setattr(attempts, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(attempts, "_RECORD_SECONDS", 0.0)
    machines, may_upload = Machines(monkeypatch, tmp_path), threading.Event()
    folder, put = storage_folder(URI) / "s" / "trials" / "0001", ObjectStore.put
    with Attempt(folder, limits(folder.parents[1])) as attempt:

        def blocked_put(store: ObjectStore, name: str, content: Any) -> str:
            assert may_upload.wait(20)
            return put(store, name, content)

        monkeypatch.setattr(ObjectStore, "put", blocked_put)
        for _ in range(3):
            assert not attempt.should_stop()
        may_upload.set()
    machines.next_one(monkeypatch)
    trial = TrialFolder(storage_folder(URI) / "s" / "trials" / "0001")
    trial.refresh()
    (after,) = trial.attempts()
    assert after.is_over
