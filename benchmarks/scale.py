"""The driver's CPU time in sweeps of very many trials, with simulated trials.

    python benchmarks/scale.py --sizes 100 300 1000 3000 10000

For each size, a sweep's folder is written as that many trials leave it (six in ten are stopped at a
rung, the others finish). Then a driver resumes it: searcher, rungs, callback and mirror are those
of a sweep, and run further trials, whose processes are simulated here: they write their records and
report. Only the driver's calls are timed, by the CPU time of their thread, which other processes
hardly affect. Ray's own loop is not included.

Requests to MLflow are counted on a tracking server started here. The object store is one in memory
that delays every response by `--away` seconds.
"""

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from distant_store import reading_at_a_uri
from many_runs import Served
from rich.console import Console

from mlflow_setup.filesystem import atomic
from mlflow_setup.filesystem.atomic import DeferredSync
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import (
    CONTINUE,
    STOP,
    Decision,
    EpochRecord,
    Outcome,
    OutcomeRecord,
    TrialRecord,
)
from mlflow_setup.tracking.store import Tracking
from search.algorithms.optuna_searcher import OptunaSearcher
from search.algorithms.rungs import new_rungs, restore_rungs
from search.algorithms.tune_scheduler import TuneScheduler
from search.config.load import read_sweep
from search.config.sweep_config import Budget, SweepConfig
from search.driver.budget import Meter
from search.driver.callback import SweepCallback
from search.driver.progress import Progress
from search.driver.stop_switch import StopSwitch
from search.storage.history import read_history
from search.storage.sweep_folder import SweepFolder
from trainable.config.parse import from_flat
from trainable.storage.trial_folder import TrialFolder

NUM_EPOCHS, NUM_MORE = 10, 40
METRICS = ("dev/overall", *(f"dev/task{n}/accuracy" for n in range(3)), "train/loss")


class NoMirror:
    """Replaces the threads that send to MLflow."""

    def mark(self, trial: str) -> None:
        pass


class FakeTrial:
    """A trial as Tune passes it to callbacks."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config, self.last_result = config, dict[str, Any]()
        self.trial_id = config["trial"]


class Stopwatch:
    """Measures milliseconds of this thread's CPU time, by operation."""

    def __init__(self) -> None:
        self.took: defaultdict[str, list[float]] = defaultdict(list)

    def time(self, what: str, part: Callable[[], Any]) -> Any:
        started = time.thread_time()
        found = part()
        self.took[what].append(1000 * (time.thread_time() - started))
        return found

    def median(self, what: str) -> float:
        return statistics.median(self.took[what])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000, 3000, 10000])
    parser.add_argument("--gpus", type=int, default=500)
    parser.add_argument(
        "--away", type=float, default=0.02, help="seconds that the object store delays a response"
    )
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="length of a trial, to compute rates"
    )
    given = parser.parse_args()
    atomic.os.fsync = lambda *_: None  # CPU time is measured, not the disk
    per_trial = mlflow_requests()
    print(json.dumps({"MLflow requests": per_trial}), flush=True)
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder), size, given.away)
        rate = given.gpus / (60 * given.minutes)  # trials a second
        busy = found["ask ms"] + NUM_EPOCHS * found["report ms"] + found["end ms"]
        found |= {
            "driver's share of a core": rate * busy / 1000,
            "MLflow requests a second": rate * sum(per_trial.values()),
        }
        rounded = {key: round(value, 3) for key, value in found.items()}
        print(json.dumps({"trials": size, **rounded}), flush=True)


def measure(root: Path, size: int, away: float) -> dict[str, float]:
    """Measure a driver that resumes a sweep of `size` trials."""
    watch, draw = Stopwatch(), random.Random(0)
    more = [f"search.num_samples={size + NUM_MORE}", f"train.num_epochs={NUM_EPOCHS}"]
    sweep = read_sweep("selective", [*more, "search.num_probes=0", "search.baselines=false"], {})
    folder = SweepFolder(root, "s")
    folder.create(sweep)
    write_past(folder, sweep, size, draw)
    from_afar = reading_at_a_uri(folder.path, away)
    history = watch.time("read", lambda: read_history(folder.trial_folders()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    searcher = watch.time("study", lambda: OptunaSearcher(sweep, history))
    scheduler = TuneScheduler(new_rungs(sweep))
    watch.time("rungs", lambda: restore_rungs(scheduler.rungs, history))
    with DeferredSync() as disk:
        callback = SweepCallback(
            folder,
            NoMirror(),
            scheduler,
            Progress(Console(quiet=True), size, 500),
            StopSwitch(folder.stop_file, print),
            Meter(folder, Budget()),
            searcher,
            keep_pruned_top=sweep.keep_pruned_top,
            max_failures=3,
            sync_later=disk.add,
        )
        watch.time("callback", lambda: callback.restore(history))
        for _ in range(NUM_MORE):
            drive_one(watch, searcher, scheduler, callback, folder, draw)
    objects = sum(path.is_file() for path in (root / "s").rglob("*"))
    restored = sum(watch.took[part][0] for part in ("read", "study", "rungs", "callback"))
    return {
        "ask ms": watch.median("ask"),
        "report ms": watch.median("report"),
        "end ms": watch.median("end"),
        "restored s": restored / 1000,
        "memory MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "of it for the study MB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        / 1024,
        "objects": objects,
        "restored from a store s": from_afar,
    }


def drive_one(
    watch: Stopwatch,
    searcher: OptunaSearcher,
    scheduler: TuneScheduler,
    callback: SweepCallback,
    folder: SweepFolder,
    draw: random.Random,
) -> None:
    """Run one trial from suggestion to end, with the same calls in the same order as Tune."""
    suggested = watch.time("ask", lambda: searcher.suggest(str(draw.random())))
    (trial_id,) = searcher.running
    trial, worth = FakeTrial(suggested), draw.random()
    own = folder.trial(suggested["trial"])
    own.create(record_of(suggested["trial"], suggested["settings"], suggested["searched"]))
    watch.time("start", lambda: callback.on_trial_start(0, [], trial))
    config = from_flat(suggested["settings"])
    for epoch in range(1, config.train.num_epochs + 1):
        value = worth * (1 - 0.5**epoch)
        own.write_epoch(epoch_of(epoch, value))
        result = {"epoch": epoch, "num_epochs": config.train.num_epochs, "diverged": 0}
        result |= {"overall": value, "best_overall": value, "problem": "", "num_probe_epochs": 0}

        def report(result: dict[str, Any] = result) -> str:
            decision = scheduler.on_trial_result(None, trial, result)
            searcher.on_trial_result(trial_id, result)
            callback.on_trial_result(0, [], trial, result)
            return decision

        if watch.time("report", report) == "STOP":
            break
    else:
        ended = OutcomeRecord(Outcome.FINISHED, "ran its epochs", epoch, time.time())
        own.write_outcome(ended)
    trial.last_result = result

    def end() -> None:
        searcher.on_trial_complete(trial_id, result)
        callback.on_trial_complete(0, [], trial)

    watch.time("end", end)


def write_past(folder: SweepFolder, sweep: SweepConfig, size: int, draw: random.Random) -> None:
    """Write the folders of trials that have ended."""
    first, base = OptunaSearcher(sweep), sweep.base()
    keys = list(first.suggest("x")["searched"]) if size else []
    for number in range(size):
        point = {key: _drawn(sweep.space[key], draw) for key in keys}
        settings = from_flat({**base.settings, **point}).flat()
        trial, worth = folder.trial(f"{number + 1:04d}"), draw.random()
        trial.create(record_of(trial.path.name, settings, keys))
        is_stopped = number % 10 < 6
        length = 2 if is_stopped else NUM_EPOCHS
        for epoch in range(1, length + 1):
            trial.write_epoch(epoch_of(epoch, worth * (1 - 0.5**epoch)))
            action = STOP if is_stopped and epoch == length else CONTINUE
            trial.write_decision(Decision(epoch, action, f"rung 1: {worth:.3f}"))
        how = (Outcome.PRUNED, "below") if is_stopped else (Outcome.FINISHED, "ran its epochs")
        trial.write_outcome(OutcomeRecord(*how, length, 1.79e9))


def _drawn(parameter: Any, draw: random.Random) -> Any:
    if parameter.type == "float":
        return draw.uniform(*parameter.corners)
    return draw.choice(parameter.corners)


def record_of(name: str, settings: dict[str, Any], searched: Any) -> TrialRecord:
    return TrialRecord(
        name, "s", "b3", dict(settings), {}, 0, "data", None, 1.79e9, tuple(searched)
    )


def epoch_of(epoch: int, value: float) -> EpochRecord:
    return EpochRecord(epoch, dict.fromkeys(METRICS, value), {}, 1.0, 1.79e9 + epoch)


def mlflow_requests() -> dict[str, float]:
    """The number of requests to a server when a trial of ten epochs begins, after an epoch, and at
    its end."""
    send, sent = requests.Session.send, list[str]()

    def counted(session: Any, request: Any, **how: Any) -> Any:
        sent.append(request.url)
        return send(session, request, **how)

    with tempfile.TemporaryDirectory() as folder, Served(Path(folder)) as server:
        mirror = Mirror(Tracking(server.uri), "s")
        mirror.start({}, {})
        trial = TrialFolder(Path(folder) / "s" / "trials" / "0001")
        settings = read_sweep("selective", [], {}).base().settings
        trial.create(record_of("0001", from_flat(settings).flat(), ()))
        requests.Session.send = counted  # type: ignore[method-assign]
        counts = [len(sent)]
        for epoch in range(NUM_EPOCHS + 1):
            if epoch:
                trial.write_epoch(epoch_of(epoch, 0.5))
                (trial.path / "predictions").mkdir(exist_ok=True)
                (trial.path / "predictions" / f"{epoch:04d}.parquet").write_bytes(b"x" * 1000)
            mirror.project(trial.snapshot())
            counts.append(len(sent))
        trial.write_outcome(OutcomeRecord(Outcome.FINISHED, "", NUM_EPOCHS, 1.79e9))
        mirror.project(trial.snapshot())
        requests.Session.send = send  # type: ignore[method-assign]
    return {
        "begin": counts[1] - counts[0],
        "epochs": counts[-1] - counts[1],
        "end": len(sent) - counts[-1],
    }


if __name__ == "__main__":
    main()
