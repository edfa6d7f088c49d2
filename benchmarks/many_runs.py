"""The time to read many MLflow runs: for a leaderboard, and their predictions from a server.

    python benchmarks/many_runs.py --runs 1000 --read 200

A few trials are logged as those of a sweep; the others are copies of their rows in the database.
The leaderboard is timed as a command in its own process, and in parts: reading and table.
Predictions are read from a server started here, one run after another and as an ensemble reads
them, measured alternately. Seconds are wall time and CPU time.
"""

import argparse
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import psutil

from ensemble.candidates.pool import NUM_READERS, load_pool
from mlflow_setup.runs.query import download, latest_choice, trials_of
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import (
    CONFIG_ARTIFACT,
    EpochRecord,
    Outcome,
    OutcomeRecord,
    TrialRecord,
)
from mlflow_setup.tracking.store import ARTIFACTS_FOLDER, Tracking
from mlflow_setup.tracking.ui_server import server_command
from search.reports.leaderboard import leaderboard
from trainable.config.recipe import resolve
from trainable.config.tasks import PAPER_TASKS
from trainable.storage.predictions import Predictions
from trainable.storage.trial_folder import TrialFolder

NUM_TRACKED, NUM_EPOCHS, NUM_ROWS = 5, 10, 1_000
SCORED = [name for name, task in PAPER_TASKS.items() if task.metric]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--read", type=int, default=200, help="runs whose predictions are read")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Served(Path(folder)) as server:
        track(Tracking(server.uri), Path(folder))
        copy_runs(server.database, given.runs, given.read)
        time_leaderboard(Tracking(f"sqlite:///{server.database}"), given.rounds)
        time_predictions(Tracking(server.uri), Path(folder), given.read, given.rounds)


class Served:
    """A tracking server on an SQLite file, running during the block."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.database = folder, folder / "mlflow.db"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        tracking = Tracking(f"sqlite:///{self.database}")
        _ = tracking.client  # creates the database; the server must create the experiment
        command, environment = server_command(tracking, port=self.port)
        with (self.folder / "server.log").open("w") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | environment, stdout=log, stderr=log
            )
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health"):
                return self
            time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
            process.kill()
        self.process.wait()


def track(tracking: Tracking, storage: Path) -> None:
    """Log a sweep of trials with metrics, settings and predictions such as training writes."""
    draw, config = np.random.default_rng(0), resolve("b3", [], {}).config
    mirror = Mirror(tracking, "many")
    mirror.start({"recipe": "b3"}, {})
    for number in range(NUM_TRACKED):
        trial = TrialFolder(storage / "many" / "trials" / f"{number:04d}")
        values = {**config.flat(), "optim.lr": float(draw.uniform(1e-5, 1e-3))}
        record = TrialRecord(trial.path.name, "many", "b3", values, {}, 0, "d", None, 1.79e9)
        trial.create(record)
        for epoch in range(1, NUM_EPOCHS + 1):
            scores = {
                f"dev/{name}/{task.metric}": float(draw.uniform(0.5, 0.9))
                for name, task in PAPER_TASKS.items()
                if task.metric
            }
            scores["dev/overall"] = float(np.mean(list(scores.values())))
            scores |= {f"train/{name}/loss": float(draw.random()) for name in PAPER_TASKS}
            trial.write_epoch(EpochRecord(epoch, scores, {}, 60.0, 1.79e9 + 60 * epoch))
            trial.write_predictions(epoch, [_predictions(name, draw) for name in SCORED])
            trial.keep_weights(epoch, lambda path: None)
        ended = OutcomeRecord(Outcome.FINISHED, "ran its epochs", NUM_EPOCHS, 1.79e9 + 999)
        trial.write_outcome(ended)
        mirror.project(trial.snapshot())
    mirror.finish("FINISHED")


def _predictions(name: str, draw: np.random.Generator) -> Predictions:
    task = PAPER_TASKS[name]
    shape = (NUM_ROWS, task.num_classes) if task.kind.output.has_columns else (NUM_ROWS,)
    ids = tuple(f"{name}-{row:05d}" for row in range(NUM_ROWS))
    labels = np.arange(NUM_ROWS, dtype=np.float64) % max(2, task.num_classes)
    outputs = draw.standard_normal(shape).astype(np.float32)
    return Predictions(name, task.kind, "dev", ids, outputs, labels, "d", "t")


def copy_runs(database: Path, num_runs: int, num_with_files: int) -> None:
    """Copy the rows and artifacts of the sweep's trials until it has `num_runs`, each with its own
    run id, name and folder."""
    tables = ("runs", "params", "metrics", "latest_metrics", "tags")
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        query = "SELECT run_uuid FROM tags WHERE key = 'trial'"
        sources = [row[0] for row in connection.execute(query)]
        for number in range(len(sources), num_runs):
            source, copy, name = sources[number % len(sources)], uuid.uuid4().hex, f"{number:04d}"
            for table in tables:
                columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
                changed = {"run_uuid": f"'{copy}'"}
                changed["artifact_uri"] = f"replace(artifact_uri, '{source}', '{copy}')"
                values = ", ".join(changed.get(column, column) for column in columns)
                into = f"INSERT INTO {table} ({', '.join(columns)})"
                connection.execute(
                    f"{into} SELECT {values} FROM {table} WHERE run_uuid = ?", [source]
                )
            renamed = "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = 'trial'"
            connection.execute(renamed, [name, copy])
            if number < num_with_files:
                _copy_files(database.parent / ARTIFACTS_FOLDER, source, copy, name)


def _copy_files(root: Path, source: str, copy: str, name: str) -> None:
    (found,) = root.rglob(source)
    shutil.copytree(found, found.with_name(copy))
    config = found.with_name(copy) / "artifacts" / CONFIG_ARTIFACT
    record = TrialRecord.from_json(config.read_text(encoding="utf-8"))
    config.write_text(replace(record, trial=name).to_json(), encoding="utf-8")


def time_leaderboard(tracking: Tracking, rounds: int) -> None:
    """Time the command in its own process, and its parts in this one."""
    command = [sys.executable, "-m", "ensweep", "leaderboard", "many", "--tracking-uri"]
    command += [tracking.uri, "--columns", "trial,overall"]

    def run() -> None:
        subprocess.run(
            command, env=os.environ | {"COLUMNS": "100"}, check=True, capture_output=True
        )

    runs = trials_of(tracking, "many")
    parts = {
        "ensweep leaderboard": run,
        "of it: reading": lambda: trials_of(tracking, "many"),
        "of it: the choice": lambda: latest_choice(tracking, "many"),
        "of it: the table": lambda: leaderboard(runs),
    }
    print(f"leaderboard of {len(runs)} runs")
    for name, part in parts.items():
        print(f"  {name:24} {_described([_timed(part) for _ in range(rounds)])}")


def time_predictions(tracking: Tracking, folder: Path, num_runs: int, rounds: int) -> None:
    """Time reading predictions into an empty cache: as an ensemble does, and file by file."""
    runs = [run for run in trials_of(tracking, "many") if int(run.trial) < num_runs]
    took: dict[str, list[tuple[float, float]]] = {"as an ensemble": [], "in turn": []}
    for number in range(rounds):
        for how, times in took.items():
            cache = folder / "cache" / f"{how} {number}"
            cache.mkdir(parents=True)
            readers = NUM_READERS if how == "as an ensemble" else 1

            def fetch(run_id: str, path: str, cache: Path = cache) -> Path:
                return download(tracking, run_id, path, cache)

            part = partial(load_pool, runs, fetch, readers)
            times.append(_timed(part))
    print(f"predictions of {len(runs)} runs, {NUM_EPOCHS} epochs each, from a server")
    for how, times in took.items():
        print(f"  {how:24} {_described(times)}")
    ratios = [b[0] / a[0] for a, b in zip(*took.values(), strict=True)]
    print(f"  times as quick           {statistics.median(ratios):.2f} (wall, of each round)")


def _timed(part: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process and of its children that have ended."""
    started, used = time.perf_counter(), sum(os.times()[:4])
    part()
    return time.perf_counter() - started, sum(os.times()[:4]) - used


def _described(times: Sequence[tuple[float, float]]) -> str:
    wall, used = (statistics.median(each) for each in zip(*times, strict=True))
    return f"{wall:7.2f} s wall, {used:6.2f} s of a processor"


if __name__ == "__main__":
    main()
