"""O3: a sweep that was broken ends bit by bit as an undisturbed one: real training, tiny BERT."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from drivers import is_at_a_trial
from safetensors.torch import load_file

from search.history import SweepFolder, read_history

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def ensweep(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from ensweep.cli.app import main; main()", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_DISABLE_MEMORY_MONITOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def sweep_file(folder: Path, encoder: Path, data: Path) -> Path:
    """Three known configurations: what the sampler draws depends on who is first."""
    settings = {
        "data.dir": str(data),
        "model.encoder": str(encoder),
        "train.num_epochs": 6,
        "batching.batch_size": 8,
        "train.precision": "fp32",
    }
    content = {
        "recipe": "b3-no-pretraining",
        "config": settings,
        "first_trials": [
            {"recipe": "b3-no-pretraining", "seed": seed, "optim.lr": 1e-3} for seed in range(3)
        ],
        "search": {"num_samples": 3},
        "scheduler": {"name": "none"},
        "resources": {"gpus_per_trial": 0, "max_concurrent_trials": 2},
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def record(storage: Path, name: str) -> dict[str, object]:
    """Everything that must not differ: metrics of each epoch, and the last weights kept."""
    found: dict[str, object] = {}
    folder = SweepFolder(storage, name)
    for past in read_history(folder.trial_folders()):
        found[f"{past.name} metrics"] = [(e.epoch, e.metrics, e.dev_train) for e in past.epochs]
        assert past.is_over
        trial = folder.trial(past.name)
        found[f"{past.name} kept"] = trial.kept_epochs()
        for epoch in trial.kept_epochs():
            weights = load_file(trial.weights_dir(epoch) / "model.safetensors")
            found[f"{past.name} weights {epoch}"] = {k: v.tolist() for k, v in weights.items()}
    return found


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
