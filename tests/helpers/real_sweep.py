"""Sweeps that really train the tiny BERT, by the command line, and their complete results."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import yaml
from drivers import ROOT, epoch_files
from patience import PATIENCE

from ensemble.choice.request import Request, choose_ensemble
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from search.storage.history import read_history
from search.storage.sweep_folder import SweepFolder
from trainable.model.weight_files import read_weights


def ensweep(
    *words: str, stderr: int = subprocess.STDOUT, **environment: str
) -> subprocess.Popen[str]:
    paths = {"PYTHONPATH": str(ROOT), "RAY_DISABLE_MEMORY_MONITOR": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", "from ensweep.cli.app import main; main()", *words],
        env={**os.environ, **paths, **environment},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def sweep_file(folder: Path, encoder: Path, data: Path, at_once: int = 2) -> Path:
    """Write a sweep of three fixed configurations, because a sampler's choices depend on the order
    in which trials end."""
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
        "search": {"num_samples": 3, "baselines": False},
        "scheduler": {"name": "none"},
        "resources": {"gpus_per_trial": 0, "max_concurrent_trials": at_once},
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def end(process: subprocess.Popen[str]) -> str:
    """Wait for a process to finish successfully, and return its output."""
    text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, text
    return text


def wait_for_epochs(
    folder: Path, count: int, driver: subprocess.Popen[str], name: str = "s"
) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(epoch_files(folder, name)) < count:
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def choice(storage: Path, name: str, tracking: Tracking | None = None) -> dict[str, object]:
    """O4: for each task and method the members, their weights and scores.

    With one given rule, because choosing the rule takes much longer.
    """
    tracking = tracking or resolve_tracking(storage)
    _, found = choose_ensemble(tracking, Request((name,), rule="greedy"), storage / ".cache")
    return {
        f"{task} {method}": (
            [(member.candidate.label, member.weight) for member in chosen.members],
            chosen.trajectory,
            chosen.scores.to_json(),
        )
        for task, methods in found.tasks.items()
        for method, chosen in methods.methods.items()
    }


def record(storage: Path, name: str) -> dict[str, object]:
    """O3: the metrics of each epoch, and all kept weights."""
    found: dict[str, object] = {}
    folder = SweepFolder(storage, name)
    for past in read_history(folder.trial_folders()):
        found[f"{past.name} metrics"] = [(e.epoch, e.metrics, e.dev_train) for e in past.epochs]
        assert past.is_over
        trial = folder.trial(past.name)
        found[f"{past.name} kept"] = trial.kept_epochs()
        for epoch in trial.kept_epochs():
            weights = read_weights(trial.require_weights(epoch))
            found[f"{past.name} weights {epoch}"] = {k: v.tolist() for k, v in weights.items()}
    return found


TRANSIENT = (
    *("/.whole", "/attempts/", "/.locks/", ".lock"),
    *("/.claim", "/lease.json", "/under-way.json"),
)
"""Files of a sweep that depend on the process and the time."""
TIMES_AND_PLACES = {
    *("seconds", "wall_time", "start_time", "ms_per_sentence", "storage"),
    "digest",  # keys of the records that depend on them
}


def content(files: Mapping[str, bytes]) -> dict[str, object]:
    """A sweep's files by name: records without times and places, other files unchanged."""
    found: dict[str, object] = {}
    for name, text in files.items():
        if any(word in name for word in TRANSIENT):
            continue
        is_record = name.endswith((".json", ".yaml"))
        value = yaml.safe_load(text) if is_record else text
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if k not in TIMES_AND_PLACES}
        found[name] = value
    return found
