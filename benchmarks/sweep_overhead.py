"""The overhead of a sweep: gaps between trials, the driver's time, the search's time.

    python benchmarks/sweep_overhead.py            # about 6 minutes on two cores

Ratios compare with a reference in the same run: the sleeping time alone, a new process for each
trial, Ray's MLflow callback.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from asking import ask_time

from mlflow_setup.filesystem.atomic import DeferredSync
from mlflow_setup.runs.background_mirror import BackgroundMirror
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, TrialRecord
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from search.algorithms.optuna_searcher import OptunaSearcher
from search.algorithms.rungs import SuccessiveHalving
from search.algorithms.tune_scheduler import TuneScheduler
from search.config.load import read_sweep
from search.config.sweep_config import Budget, SweepConfig
from search.driver.budget import Meter
from search.driver.callback import SweepCallback
from search.driver.progress import Progress
from search.driver.stop_switch import StopSwitch
from search.driver.sweep import run_sweep
from search.storage.sweep_folder import SweepFolder
from trainable.tune.trainable import Train

NUM_METRICS = 27
SPACE = {
    "optim.lr": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
    "model.head_dropout": {"type": "float", "low": 0.0, "high": 0.5},
    "model.fcn_size": {"type": "categorical", "choices": [128, 256, 512]},
    "loss.mnr.weight": {"type": "float", "low": 0.1, "high": 10, "log": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1.0, help="sleeping time of each trial")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        measured = {
            "sweep": sleeping_sweep(root, given.trials, given.seconds),
            "report": driver_time_per_report(root),
            "ask": ask_time(),
        }
    if given.json:
        print(json.dumps({"schema_version": 1, **measured}))
        return
    for name, values in measured.items():
        for key, value in values.items():
            print(f"{name:8} {key:45} {value:9.3f}")


def sleeping_sweep(root: Path, num_trials: int, seconds: float) -> dict[str, float]:
    """Run trials that only sleep, and compare with the minimum: total sleep / concurrency."""
    sweep = _sweep(root, num_trials)
    storage = root / "runs"
    started = time.perf_counter()
    result = run_sweep(
        sweep, "sleep", storage, resolve_tracking(storage), console=_quiet(), train=sleeper(seconds)
    )
    total = time.perf_counter() - started
    facts = [
        json.loads((result.folder / "trials" / trial.record.trial / "facts.json").read_text())
        for trial in result.trials
    ]
    used, fresh = _gaps(facts)
    span = max(fact["end"] for fact in facts) - min(fact["start"] for fact in facts)
    floor = num_trials * seconds / 2
    return {
        "trials": num_trials,
        "floor in s (2 at a time)": floor,
        "first start to last end in s": span,
        "over the floor": span / floor - 1,
        "whole call in s": total,
        "processes": len({fact["pid"] for fact in facts}),
        "median gap on a used process in s": statistics.median(used),
        "median start on a fresh process in s": statistics.median(fresh),
        "memory of a process in MB": statistics.median(fact["rss"] for fact in facts) / 1e6,
    }


def _gaps(facts: list[dict[str, float]]) -> tuple[list[float], list[float]]:
    """Seconds from one trial's end to the next one's start in the same process, and from the start
    of a process to that of its first trial."""
    by_process: dict[float, list[dict[str, float]]] = {}
    for fact in sorted(facts, key=lambda fact: fact["start"]):
        by_process.setdefault(fact["pid"], []).append(fact)
    used = [
        after["start"] - before["end"]
        for trials in by_process.values()
        for before, after in itertools.pairwise(trials)
    ]
    return used, [trials[0]["start"] - trials[0]["born"] for trials in by_process.values()]


def sleeper(seconds: float) -> Train:
    def train(config, folder, *, identity, report, stop, shared):  # type: ignore[no-untyped-def]
        import json
        import os
        import time

        from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, TrialRecord
        from trainable.storage.trial_folder import TrialFolder

        start = time.time()
        trial = TrialFolder(folder)
        values = config.flat()
        trial.create(
            TrialRecord(
                identity.trial, identity.sweep, identity.recipe, values, {}, 0, "data", None, start
            )
        )
        time.sleep(seconds)
        metrics = {"dev/overall": 0.5, "dev/sentiment/accuracy": 0.5}
        trial.write_epoch(EpochRecord(1, metrics, {}, seconds, time.time()))
        report(trial.epochs()[-1])
        ended = OutcomeRecord(Outcome.FINISHED, "slept", 1, time.time())
        trial.write_outcome(ended)
        process = psutil.Process()
        facts = {"start": start, "end": time.time(), "pid": os.getpid()}
        facts |= {"rss": process.memory_info().rss, "born": process.create_time()}
        (folder / "facts.json").write_text(json.dumps(facts))
        return ended

    return train


@dataclass(eq=False)
class StandIn:
    """A trial as Tune passes it to callbacks."""

    config: dict[str, Any]
    path: str
    trial_id: str = "x"


def driver_time_per_report(root: Path, num_reports: int = 50) -> dict[str, float]:
    """The time that a report of 27 metrics takes in the driver's loop: with our callback, and with
    Ray's for MLflow."""
    metrics = {f"dev/task{n}/accuracy": 0.5 for n in range(NUM_METRICS - 1)} | {"dev/overall": 0.5}
    ours = statistics.median(_our_reports(root, metrics, num_reports)) * 1000
    theirs = statistics.median(_their_reports(root, metrics, num_reports)) * 1000
    return {
        "ours in ms": ours,
        "Ray's MLflowLoggerCallback in ms": theirs,
        "times less": theirs / ours,
    }


def _our_reports(root: Path, metrics: dict[str, float], num_reports: int) -> list[float]:
    tracking = resolve_tracking(root / "report")
    folder = SweepFolder(root / "report", "s")
    trial = folder.trial("0001")
    trial.create(TrialRecord("0001", "s", "b3", {}, {}, 0, "data", None, time.time()))
    mirror = BackgroundMirror(Mirror(tracking, "s"), lambda name: folder.trial(name).snapshot())
    mirror.start({}, {}, {})
    scheduler = TuneScheduler(SuccessiveHalving(1, 2))
    disk = DeferredSync()
    callback = SweepCallback(
        folder,
        mirror,
        scheduler,
        Progress(_quiet(), 1, 1),
        StopSwitch(folder.stop_file, print),
        Meter(folder, Budget()),
        OptunaSearcher(_sweep(root, 1)),
        keep_pruned_top=3,
        max_failures=3,
        sync_later=disk.add,
    )
    settings = {"settings": {"train.num_epochs": num_reports}, "searched": []}
    stand_in: Any = StandIn({"trial": "0001", "recipe": "b3", **settings}, str(root))
    callback.on_trial_start(0, [], stand_in)
    times = []
    with disk:
        for epoch in range(1, num_reports + 1):
            trial.write_epoch(EpochRecord(epoch, metrics, {}, 1.0, time.time()))
            result = {"epoch": epoch, "num_epochs": num_reports, "diverged": 0, "problem": ""}
            result |= {"best_overall": 0.5, "overall": 0.5, "num_probe_epochs": 0}
            started = time.perf_counter()
            scheduler.on_trial_result(None, stand_in, result)
            callback.on_trial_result(0, [], stand_in, result)
            times.append(time.perf_counter() - started)
            time.sleep(0.02)
    trial.write_outcome(OutcomeRecord(Outcome.FINISHED, "", num_reports, time.time()))
    mirror.mark("0001")
    assert mirror.close("FINISHED") == set()
    return times


def _their_reports(root: Path, metrics: dict[str, float], num_reports: int) -> list[float]:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    tracking = Tracking(f"sqlite:///{root / 'ray.db'}")
    tracking.check()
    callback = MLflowLoggerCallback(tracking_uri=tracking.uri, experiment_name="ray")
    callback.setup()
    stand_in: Any = StandIn({}, str(root))
    callback.log_trial_start(stand_in)
    times = []
    for epoch in range(1, num_reports + 1):
        result = {**metrics, "training_iteration": epoch, "timesteps_total": epoch}
        started = time.perf_counter()
        callback.log_trial_result(epoch, stand_in, result)
        times.append(time.perf_counter() - started)
    return times


def _sweep(root: Path, num_samples: int) -> SweepConfig:
    data = root / "data"
    if not data.exists():
        _write_data(data)
    content = {
        "recipe": "b3",
        "config": {"train.num_epochs": 1, "data.dir": str(data), "data.tasks": ["sentiment"]},
        "space": SPACE,
        "search": {"num_samples": num_samples, "baselines": False},
        "resources": {"gpus_per_trial": 0, "max_concurrent_trials": 2},
    }
    path = root / "sleep.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    return read_sweep(str(path), (), {})


def _write_data(folder: Path) -> None:
    """Write data that pass the check; the trials do not read them."""
    folder.mkdir(parents=True)
    for part in ("train", "dev"):
        rows = "".join(f"{n}\t{part}{n}\tsentence {part} {n}\t{n % 5}\n" for n in range(20))
        text = f"\tid\tsentence\tsentiment\n{rows}"
        (folder / f"ids-sst-{part}.csv").write_text(text, encoding="utf-8")


def _quiet() -> Any:
    from rich.console import Console

    return Console(file=Path("/dev/null").open("w"))


if __name__ == "__main__":
    main()
