"""Drivers of fake sweeps in their own processes, and assertions about their results."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import psutil
from fake_sweep import NUM_EPOCHS
from patience import PATIENCE

from mlflow_setup.filesystem.lease import LEASE_FILE, read_lease
from mlflow_setup.runs.projection import TIMES, most_important, with_best
from mlflow_setup.runs.query import find_trials
from mlflow_setup.runs.usage import SYSTEM, USAGE
from mlflow_setup.schema import PAUSE, STOP, Outcome, RunKind, Tag
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from search.algorithms.optuna_searcher import OptunaSearcher
from search.storage.history import PastTrial, read_history
from search.storage.sweep_folder import SweepFolder

ROOT = Path(__file__).resolve().parents[2]


class Driver:
    """A driver in a process of its own; one that its test leaves running is killed after it."""

    started: ClassVar[list["Driver"]] = []

    def __init__(
        self, verb: str, folder: Path, *given: str, name: str = "s", **environment: str
    ) -> None:
        command = [
            sys.executable,
            str(ROOT / "tests" / "helpers" / "fake_sweep.py"),
            verb,
            str(folder),
            *given,
        ]
        paths = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}"
        self.folder, self.name = folder, name
        if verb == "run" and "MLFLOW_TRACKING_URI" not in environment:
            resolve_tracking(folder / "runs").check()  # creating the database here is faster
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": paths, "SWEEP": name, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(self)

    def wait_for(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def wait_for_epochs(self, count: int) -> None:
        self.wait_for(lambda: len(epoch_files(self.folder, self.name)) >= count)

    def processes(self) -> list[psutil.Process]:
        """The driver's process and all its descendants: Ray and its workers."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        """The processes in which trials run."""
        return [process for process in self.processes() if is_at_a_trial(process)]

    def end(self, seconds: float = 300) -> tuple[int, str]:
        """Wait for the end. Returns exit code and stderr."""
        text = self.process.communicate(timeout=seconds)[1]
        return self.process.returncode, text

    def finish(self, seconds: float = 300) -> str:
        """Wait for success. Returns stderr."""
        code, text = self.end(seconds)
        assert code == 0, text
        return text

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


def epoch_files(folder: Path, name: str = "s") -> list[Path]:
    return list(folder.glob(f"runs/{name}/trials/*/epochs/????.json"))


def learning_rates(folder: Path) -> dict[str, float]:
    """The learning rate of each trial of the sweep `s`."""
    found = read_history(SweepFolder(folder / "runs", "s").trial_folders())
    return {past.name: past.record.config["optim.lr"] for past in found}


def holder(folder: Path, driver: Driver) -> str:
    """The text by which a refused driver names the running one: process, host and start."""
    found = read_lease(folder / "runs" / driver.name / LEASE_FILE)
    assert found is not None
    assert (found.pid, found.host) == (driver.process.pid, socket.gethostname())
    assert time.time() - time.mktime(time.strptime(found.since, "%Y-%m-%d %H:%M:%S")) < 600
    return f"process {found.pid} on {found.host}, since {found.since}"


def longest_stall(folder: Path, seconds_an_epoch: float) -> float:
    """The most seconds that an epoch took beyond its planned ones: the time its trial waited."""
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
    name: str = "s",
    num_epochs: int = NUM_EPOCHS,
    is_pretended: bool = True,
    storage: Path | None = None,
) -> dict[str, Outcome]:
    """O1 and O2: every trial has ended, and folder, study and MLflow agree.

    Args:
        name: the sweep's.
        is_pretended: its scores follow from the learning rate (`fake_sweep`).
        storage: the storage folder; None: below `folder`.
    """
    sweep = SweepFolder(storage or folder / "runs", name)
    past = {p.name: p for p in read_history(sweep.trial_folders())}
    assert len(past) == num_trials
    outcomes = {}
    for trial_name, trial in past.items():
        assert trial.is_over, trial_name
        assert trial.outcome is not None
        outcomes[trial_name] = trial.outcome.outcome
        if trial.is_scored and is_pretended:
            lr = trial.record.config["optim.lr"]
            values = [epoch.metrics["dev/overall"] for epoch in trial.epochs]
            assert values == [1 - lr + epoch / 100 for epoch in range(1, len(values) + 1)]
        if trial.outcome.outcome is Outcome.FINISHED:
            assert len(trial.epochs) == num_epochs
        if trial.outcome.outcome is Outcome.PRUNED:
            assert trial.decisions[-1].action in (STOP, PAUSE)
    searcher = OptunaSearcher(sweep.read(), list(past.values()))
    assert searcher.num_left == 0
    assert all(trial.state.is_finished() for trial in searcher.study.trials)
    assert len(searcher.study.trials) == num_trials
    assert_tracked(tracking or resolve_tracking(folder / "runs"), name, past)
    return outcomes


def assert_tracked(tracking: Tracking, name: str, past: Mapping[str, PastTrial]) -> None:
    """MLflow has the sweep's run, which has ended, and every metric of every epoch exactly once."""
    (parent,) = tracking.search({Tag.KIND: RunKind.SWEEP, Tag.SWEEP: name})
    assert parent.info.status == "FINISHED"
    runs = {run.trial: run for run in find_trials(tracking, name)}
    assert {trial: run.outcome for trial, run in runs.items()} == {
        trial: ended.outcome.outcome for trial, ended in past.items() if ended.outcome
    }
    assert {run.status for run in runs.values()} <= {"FINISHED", "FAILED"}
    for trial, run in runs.items():
        wanted: dict[str, list[tuple[int, float]]] = {}
        for epoch, metrics in with_best(past[trial].epochs):
            for key, value in most_important(metrics).items():
                wanted.setdefault(key, []).append((epoch.epoch, value))
        assert {key for key in run.metrics if not key.startswith((SYSTEM, USAGE))} == set(wanted)
        for key, points in wanted.items():
            found = tracking.client.get_metric_history(run.run_id, key)
            logged = sorted((point.step, point.value) for point in found)  # MLflow sorts by time
            if key in TIMES:  # a repeated epoch keeps the values of its first run
                logged, points = ([(step, 0.0) for step, _ in each] for each in (logged, points))
            assert logged == points, (trial, key)
