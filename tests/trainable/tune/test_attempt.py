"""One process's try at a trial: alone, counted, watched, and open to a stop."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(attempts, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(attempts, "_RECORD_SECONDS", 0.0)
    return tmp_path / "trials" / "0001"


def limits(tmp_path: Path, **changes: float) -> Limits:
    given = {"wait_seconds": 0.2, "num_cpus": 2.0, "num_gpus": 0.5, "usd_per_hour": 3.0}
    return Limits(tmp_path / "stop", **{**given, **changes})  # type: ignore[arg-type]


def test_its_seconds_are_on_disk_while_it_runs_and_after(folder: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    with Attempt(folder, limits(tmp_path)) as attempt:
        time.sleep(0.2)
        assert not attempt.should_stop()
        (during,) = TrialFolder(folder).attempts()
        time.sleep(0.2)
    (after,) = TrialFolder(folder).attempts()
    assert 0.2 <= during.seconds < during.seconds + 0.2 <= after.seconds
    assert after.seconds <= time.monotonic() - started
    assert (after.num_cpus, after.num_gpus, after.usd_per_hour) == (2.0, 0.5, 3.0)
    assert after.node_type == "local"
    with Attempt(folder, limits(tmp_path)):
        pass
    assert len(TrialFolder(folder).attempts()) == 2
    assert last_stacks(folder) is None


def test_the_machine_is_sampled(folder: Path, tmp_path: Path) -> None:
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
    (attempted,) = TrialFolder(folder).attempts()  # they are no record of an attempt
    assert attempted.is_over


def test_samples_get_rarer_the_longer_a_trial_runs(
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


def test_two_processes_are_never_at_one_trial(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from trainable.tune.attempt import *\n"
        "with Attempt(Path(sys.argv[1]), Limits(Path(sys.argv[2]))):\n"
        "    print('in', flush=True); time.sleep(60)"
    )
    root = Path(__file__).resolve().parents[3]
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "stop")],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"in\n"
    with (
        pytest.raises(PartialError, match="0001: another process still runs it"),
        Attempt(folder, limits(tmp_path)),
    ):
        pass
    other.kill()  # a lock dies with its process
    other.wait()
    with Attempt(folder, limits(tmp_path)):
        pass


def test_it_sees_the_stop_file(folder: Path, tmp_path: Path) -> None:
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
def test_sigterm_asks_it_to_stop(folder: Path, tmp_path: Path) -> None:
    listen()
    with Attempt(folder, limits(tmp_path)) as attempt:
        assert not attempt.should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert was_terminated()
        assert attempt.should_stop()


def test_a_second_sigterm_ends_the_process_at_once(folder: Path, tmp_path: Path) -> None:
    """R7: whatever the trial is at."""
    code = (
        "import sys, time; from pathlib import Path; from trainable.tune.attempt import *\n"
        "listen()\n"
        "with Attempt(Path(sys.argv[1]), Limits(Path('none'))):\n"
        "    print('in', flush=True)\n"
        "    while not was_terminated(): time.sleep(0.01)\n"
        "    print('told', flush=True); time.sleep(600)"
    )
    root = Path(__file__).resolve().parents[3]
    trial = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
    )
    assert trial.stdout is not None
    for said in (b"in\n", b"told\n"):
        assert trial.stdout.readline() == said
        trial.send_signal(signal.SIGTERM)
    assert trial.wait(timeout=PATIENCE) == 75
    with Attempt(folder, limits(tmp_path)):
        pass  # its lock was given back


def test_a_process_that_takes_no_step_is_ended_and_says_what_it_was_at(
    folder: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, time; from pathlib import Path; from trainable.tune.attempt import *\n"
        "def forever():\n"
        "    time.sleep(60)\n"
        "with Attempt(Path(sys.argv[1]), Limits(Path('none'), max_silence_seconds=0.5)) as a:\n"
        "    with a.waiting(): time.sleep(1)\n"
        "    print('waited', flush=True); forever()"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == b"waited\n"
    assert done.returncode == 1
    stacks = last_stacks(folder)
    assert stacks is not None
    assert "in forever" in stacks.read_text(encoding="utf-8")


def test_a_name_that_cannot_be_a_trial_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trial"):
        Attempt(tmp_path / "trials" / ".hidden", limits(tmp_path))


def test_in_an_object_store_what_it_tells_of_itself_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What waits at the end is let go: the last record says it all."""
    monkeypatch.setattr(attempts, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(attempts, "_RECORD_SECONDS", 0.0)
    machines, may_go_on = Machines(monkeypatch, tmp_path), threading.Event()
    folder, put = storage_folder(URI) / "s" / "trials" / "0001", ObjectStore.put
    with Attempt(folder, limits(folder.parents[1])) as attempt:

        def waiting(store: ObjectStore, name: str, content: Any) -> str:
            assert may_go_on.wait(20)
            return put(store, name, content)

        monkeypatch.setattr(ObjectStore, "put", waiting)
        for _ in range(3):
            assert not attempt.should_stop()
        may_go_on.set()
    machines.next_one(monkeypatch)
    trial = TrialFolder(storage_folder(URI) / "s" / "trials" / "0001")
    trial.refresh()
    (after,) = trial.attempts()
    assert after.is_over
