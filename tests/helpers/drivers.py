"""Drivers of pretended sweeps in processes of their own, and what must hold in the end."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from fake_sweep import NUM_EPOCHS

from mlflow_setup.projection import EPOCH_SECONDS
from mlflow_setup.runs import find_trials
from mlflow_setup.schema import Outcome
from mlflow_setup.tracking import Tracking, resolve_tracking
from search.history import SweepFolder, read_history
from search.scheduler import STOP

ROOT = Path(__file__).resolve().parents[2]


class Driver:
    """A driver in a process of its own."""

    def __init__(self, verb: str, folder: Path, *given: str, **environment: str) -> None:
        command = [
            sys.executable,
            str(ROOT / "tests" / "helpers" / "fake_sweep.py"),
            verb,
            str(folder),
            *given,
        ]
        paths = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}"
        self.folder = folder
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": paths, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, condition: Callable[[], Any], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def wait_for_epochs(self, count: int) -> None:
        self.wait_for(lambda: len(epoch_files(self.folder)) >= count)

    def workers(self) -> list[psutil.Process]:
        """The processes that trials run in."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in found if is_at_a_trial(process)]

    def end(self, seconds: float = 300) -> tuple[int, str]:
        text = self.process.communicate(timeout=seconds)[1]
        return self.process.returncode, text

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def is_at_a_trial(process: psutil.Process) -> bool:
    return title(process).startswith(("ray::Trial", "ray::ResourceTrainable"))


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def epoch_files(folder: Path) -> list[Path]:
    return list(folder.glob("runs/s/trials/*/epochs/????.json"))


def longest_stall(folder: Path, seconds_an_epoch: float) -> float:
    """Seconds that an epoch took beyond those it was to take: what its trial was made to wait."""
    return max(
        later.wall_time - earlier.wall_time - seconds_an_epoch
        for past in read_history(SweepFolder(folder / "runs", "s").trial_folders())
        for earlier, later in pairwise(past.epochs)
    )


def assert_whole(
    folder: Path,
    num_trials: int,
    tracking: Tracking | None = None,
    *,
    num_epochs: int = NUM_EPOCHS,
    is_pretended: bool = True,
) -> dict[str, Outcome]:
    """O1 and O2: every trial has ended, and folder and MLflow tell the same, each epoch once.

    Args:
        is_pretended: its values follow from the learning rate.
    """
    past = {p.name: p for p in read_history(SweepFolder(folder / "runs", "s").trial_folders())}
    assert len(past) == num_trials
    outcomes = {}
    for name, trial in past.items():
        assert trial.is_over, name
        assert trial.outcome is not None
        outcomes[name] = trial.outcome.outcome
        if trial.is_scored and is_pretended:
            lr = trial.record.config["optim.lr"]
            values = [epoch.metrics["dev/overall"] for epoch in trial.epochs]
            assert values == [1 - lr + epoch / 100 for epoch in range(1, len(values) + 1)]
        if outcomes[name] is Outcome.FINISHED:
            assert len(trial.epochs) == num_epochs
        if outcomes[name] is Outcome.PRUNED:
            assert trial.decisions[-1].action == STOP
    tracking = tracking or resolve_tracking(folder / "runs")
    runs = {run.trial: run for run in find_trials(tracking, "s")}
    assert {name: run.outcome for name, run in runs.items()} == outcomes
    assert "RUNNING" not in {run.status for run in runs.values()}
    for name, run in runs.items():
        points = tracking.client.get_metric_history(run.run_id, EPOCH_SECONDS)
        steps = sorted(point.step for point in points)  # MLflow orders them by their time
        assert steps == list(range(1, len(past[name].epochs) + 1))
    return outcomes
