"""O3: a sweep that was broken ends bit by bit as an undisturbed one: real training, tiny BERT."""

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from drivers import is_at_a_trial
from real_sweep import ensweep, record, sweep_file

pytestmark = pytest.mark.slow


def test_killed_workers_and_a_killed_driver_change_nothing(
    tmp_path: Path, tiny_encoder: Path, tiny_data: Path
) -> None:
    file, storage = sweep_file(tmp_path, tiny_encoder, tiny_data), tmp_path / "runs"
    words = ("sweep", str(file), "--storage", str(storage), "--name")
    undisturbed = ensweep(*words, "whole")
    text, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, text

    driver = ensweep(*words, "broken")
    _wait_for_epochs(storage, 2, driver)
    workers = [
        process
        for process in psutil.Process(driver.pid).children(recursive=True)
        if is_at_a_trial(process)
    ]
    workers[0].kill()
    time.sleep(1)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    resumed = ensweep("resume", "broken", "--storage", str(storage))
    text, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, text
    assert record(storage, "broken") == record(storage, "whole")


def _wait_for_epochs(storage: Path, count: int, driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while len(list(storage.glob("broken/trials/*/epochs/????.json"))) < count:
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
